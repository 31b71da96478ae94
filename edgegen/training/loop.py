"""One training loop for every family: the generator's objectives say what moves, the recipe says how far.

Everything random at step k is a function of (seed, k) and the data order of (seed, epoch), so a resumed run continues
bit for bit without a stored generator state.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..core.graph import Batch, Generator, Objective
from ..errors import EdgegenError, InputError
from ..families import Recipe
from .order import mix
from .source import Source

GIVE_UP = 20  # steps in a row with a loss that is not finite


@dataclass
class Trainer:
    """A run in memory: networks, their average, one optimizer an objective, and how far it is."""

    generator: Generator
    recipe: Recipe
    photos: Source
    seed: int
    average: AveragedModel
    objectives: tuple[Objective, ...]
    optimizers: tuple[torch.optim.Adam, ...]
    step: int = 0
    skipped: int = 0

    @classmethod
    def start(cls, generator: Generator, recipe: Recipe, photos: Source, seed: int) -> Trainer:
        """A run at step 0. InputError for photos that are too few, of another size, or of more classes than the generator's."""
        _check(generator, recipe, photos)
        average = AveragedModel(generator.networks, multi_avg_fn=_average(recipe.ema), use_buffers=True)
        objectives = tuple(generator.objectives())
        optimizers = tuple(torch.optim.Adam(o.params, lr=recipe.rate, betas=o.betas, foreach=True) for o in objectives)
        generator.networks.train()
        return cls(generator, recipe, photos, seed, average, objectives, optimizers)

    @property
    def steps(self) -> int:
        return math.ceil(self.recipe.images / self.recipe.batch)

    @property
    def images(self) -> int:
        """Training images seen so far, counted with repeats."""
        return self.step * self.recipe.batch

    @property
    def averages(self) -> nn.ModuleDict:
        """The averaged networks by name."""
        assert isinstance(self.average.module, nn.ModuleDict)
        return self.average.module

    def run(self) -> Iterator[dict[str, float]]:
        """One step an iteration until the recipe's images are seen: {objective: loss}, NaN where the step was skipped."""
        bad = 0
        classes = self.generator.latent.classes
        while self.step < self.steps:
            batch = _batch(self.photos, self.recipe.batch, self.step, self.seed, classes)
            rate = self.recipe.rate * _fraction(self.step, self.steps, self.recipe.warmup)
            report = {}
            for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
                with torch.random.fork_rng(devices=[]):  # each objective has its own dropout, the caller's stream stays
                    torch.manual_seed(mix(self.seed, self.step, f"dropout/{objective.name}"))
                    report[objective.name] = self._update(objective, optimizer, batch, rate)
            self.step += 1
            skipped = [o for o in self.objectives if not math.isfinite(report[o.name])]
            self._update_average(skipped)
            bad, self.skipped = (bad + 1, self.skipped + 1) if skipped else (0, self.skipped)
            if bad >= GIVE_UP:
                raise EdgegenError(
                    "E-NONFINITE", f"the loss was not finite for {bad} steps in a row, last at step {self.step}: {report}",
                    hint="lower the rate, or check the photos; the last checkpoint is intact",
                )
            yield report

    def lessons(self, count: int) -> Iterator[Batch]:
        """`count` batches for a generator's judge, drawn apart from the run's own."""
        seed = mix(self.seed, 0, "lessons")
        return (_batch(self.photos, self.recipe.batch, k, seed, self.generator.latent.classes) for k in range(count))

    def _update(self, objective: Objective, optimizer: torch.optim.Adam, batch: Batch, rate: float) -> float:
        buffers = [b.clone() for b in self.generator.networks.buffers()]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            loss = objective.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(objective.params, objective.clip, foreach=True)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            for buffer, before in zip(self.generator.networks.buffers(), buffers, strict=True):
                buffer.copy_(before)  # the forward pass has moved batch norm's statistics, perhaps to NaN
            return math.nan
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return float(loss.detach())

    def _update_average(self, skipped: list[Objective]) -> None:
        """Average the networks in; those whose objective was skipped keep their average, whatever the others did."""
        if len(skipped) == len(self.objectives):
            return
        still = {id(p) for objective in skipped for p in objective.params}
        kept = {name: copy.deepcopy(self.averages[name].state_dict())
                for name, net in self.generator.networks.items() if any(id(p) in still for p in net.parameters())}
        self.average.update_parameters(self.generator.networks)
        for name, tensors in kept.items():
            self.averages[name].load_state_dict(tensors)


def _check(generator: Generator, recipe: Recipe, photos: Source) -> None:
    if len(photos) < recipe.batch:
        raise InputError("E-DATA-TOO-FEW", f"training needs at least {recipe.batch} photos (one batch), got {len(photos)}")
    channels, height, width = generator.image_shape
    if photos.shape != (height, width, channels):
        raise InputError("E-DATA-SIZE", f"the generator makes {height} x {width} x {channels} images, "
                                        f"the photos are {' x '.join(map(str, photos.shape))}")
    classes = generator.latent.classes
    if classes and not (photos.labels.min() >= 0 and photos.labels.max() < classes):
        raise InputError("E-DATA-CLASSES", f"the generator has {classes} classes, the photos' labels go from "
                                           f"{photos.labels.min()} to {photos.labels.max()}")


Tensors = tuple[Tensor, ...] | list[Tensor]


def _average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential average whose decay rises as (1 + n) / (10 + n): a short run does not keep its random start."""

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for old, new in zip(averages, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, weight)
            else:
                old.copy_(new)

    return torch.no_grad()(update)


def _fraction(step: int, steps: int, warmup: int) -> float:
    """Of the peak rate: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batch(photos: Source, size: int, step: int, seed: int, classes: int) -> Batch:
    """The step's images and labels as tensors."""
    pixels, numbers = photos.batch(step, size, seed)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.eye(classes)[torch.from_numpy(numbers)] if classes else torch.zeros(size, 0)
    return Batch(images, labels, torch.Generator().manual_seed(mix(seed, step, "noise")))


def averaged(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged networks' tensors by name."""
    return {k: v.clone() for k, v in trainer.averages.state_dict().items()}


def shipped(trainer: Trainer) -> dict[str, Tensor]:
    """Those of them that leave training."""
    names = trainer.generator.shipped.state_dict().keys()
    return {k: v for k, v in averaged(trainer).items() if k in names}
