"""One training loop for every family: the generator's objectives say what moves, the recipe says how far.

Everything random at step k is a function of (seed, k) and the data order of (seed, epoch), so a resumed run continues
bit for bit without a stored generator state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..core.graph import Batch, Generator, Objective
from ..errors import EdgegenError, InputError
from ..families import Recipe
from .data import Photos

GIVE_UP = 20  # steps in a row with a loss that is not finite


@dataclass
class Trainer:
    """A run in memory: networks, their average, one optimizer an objective, and how far it is."""

    generator: Generator
    recipe: Recipe
    photos: Photos
    seed: int
    average: AveragedModel
    objectives: tuple[Objective, ...]
    optimizers: tuple[torch.optim.Adam, ...]
    step: int = 0
    skipped: int = 0

    @classmethod
    def start(cls, generator: Generator, recipe: Recipe, photos: Photos, seed: int) -> Trainer:
        if len(photos) < recipe.batch:
            raise InputError("E-DATA-TOO-FEW", f"training needs at least {recipe.batch} photos (one batch), got {len(photos)}")
        average = AveragedModel(generator.networks, multi_avg_fn=_average(recipe.ema), use_buffers=True)
        objectives = tuple(generator.objectives())
        optimizers = tuple(torch.optim.Adam(o.params, lr=recipe.rate, betas=(0.9, 0.99), foreach=True) for o in objectives)
        generator.networks.train()
        return cls(generator, recipe, photos, seed, average, objectives, optimizers)

    @property
    def steps(self) -> int:
        return math.ceil(self.recipe.images / self.recipe.batch)

    @property
    def images(self) -> int:
        """Training images seen so far, counted with repeats."""
        return self.step * self.recipe.batch

    def run(self) -> Iterator[dict[str, float]]:
        """One step an iteration until the recipe's images are seen: {objective: loss}, NaN where the step was skipped."""
        bad = 0
        classes = self.generator.latent.classes
        while self.step < self.steps:
            batch = _batch(self.photos, self.recipe.batch, self.step, self.seed, classes)
            torch.manual_seed(_mix(self.seed, self.step, "dropout"))
            rate = self.recipe.rate * _fraction(self.step, self.steps, self.recipe.warmup)
            report = {}
            for objective, optimizer in zip(self.objectives, self.optimizers, strict=True):
                report[objective.name] = self._update(objective, optimizer, batch, rate)
            self.step += 1
            if all(map(math.isfinite, report.values())):
                self.average.update_parameters(self.generator.networks)
                bad = 0
            else:
                bad, self.skipped = bad + 1, self.skipped + 1
                if bad >= GIVE_UP:
                    raise EdgegenError(
                        "E-NONFINITE", f"the loss was not finite for {bad} steps in a row, last at step {self.step}: {report}",
                        hint="lower the rate, or check the photos; the last checkpoint is intact",
                    )
            yield report

    def _update(self, objective: Objective, optimizer: torch.optim.Adam, batch: Batch, rate: float) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            loss = objective.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(objective.params, 1.0, foreach=True)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            return math.nan
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        return float(loss.detach())


def _average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """Exponential average whose decay rises as (1 + n) / (10 + n): a short run does not keep its random start."""

    def update(averages: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
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


def _mix(seed: int, step: int, use: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{use}".encode()).digest()[:8], "little") >> 1


def _batch(photos: Photos, size: int, step: int, seed: int, classes: int) -> Batch:
    """The step's images: a fresh permutation each epoch, the short rest of an epoch left out."""
    per_epoch = len(photos) // size
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(_mix(seed, epoch, "order")))
    picks = order[place * size : (place + 1) * size].numpy()
    images = torch.from_numpy(photos.pixels[picks]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = nn.functional.one_hot(torch.from_numpy(photos.labels[picks]), max(classes, 1)).float()
    return Batch(images, labels, torch.Generator().manual_seed(_mix(seed, step, "noise")))


def averaged(trainer: Trainer) -> dict[str, Tensor]:
    """The averaged networks' tensors by name: what ships."""
    return {k: v.clone() for k, v in trainer.average.module.state_dict().items()}
