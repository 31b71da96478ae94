"""The training loop of all families: the generator's objectives say which parameters are trained
when, and the recipe sets rate, batch and length.

Everything random at step k is a function of (seed, k), and the data order is a function of (seed,
epoch). What happens between two steps (a network takes its average, an objective begins) is a
function of k and the weights. So a resumed run continues bit for bit without a stored generator
state, even if it was killed at the end of a span.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..core.graph import Batch, Generator, Objective
from ..errors import EdgegenError, InputError, UsageError
from ..families import Adapting, Judged, Recipe, TwiceDifferentiated
from .averages import averaged_copy, copy_weights
from .device import configure
from .feed import Feed
from .order import mix
from .processes import ALONE, World
from .source import Source
from .update import Buffers, Optimizer, optimizer_of, update

GIVE_UP = 20  # steps in a row with a loss that is not finite, after which training stops
LESSONS = 400  # least number of batches that an objective's begin receives
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainerOptions:
    """How a run computes, and which objectives it trains.

    only: the one objective to train, whose span becomes the whole run; compiled: whether torch
    compiles the networks; eight_bit: whether Adam's state has 8 bits; adapts: whether a trained
    generator is adapted to other photos, so that its family's objectives for adapting train.
    """

    device: torch.device = CPU
    world: World = ALONE
    only: str | None = None
    compiled: bool = False
    eight_bit: bool = False
    adapts: bool = False


@dataclass
class Trainer:
    """A run in memory: its networks, their averages, one optimizer per objective, and its step.

    average: the averages of the networks that objectives train, by name; any other network is its
    own average. owned: names of the networks that each objective trains.
    """

    generator: Generator
    recipe: Recipe
    photos: Source
    seed: int
    feed: Feed
    average: dict[str, AveragedModel]
    owned: dict[str, tuple[str, ...]]
    objectives: tuple[Objective, ...]
    optimizers: tuple[Optimizer, ...]
    device: torch.device = CPU
    world: World = ALONE
    step: int = 0
    skipped: int = 0
    ended: bool = False  # set from outside: the run is over before its last step
    _buffers: Buffers = field(default_factory=lambda: Buffers(()))

    @classmethod
    def start(
        cls,
        generator: Generator,
        recipe: Recipe,
        photos: Source,
        seed: int,
        options: TrainerOptions | None = None,
    ) -> Trainer:
        """Start a run at step 0.

        InputError for photos that are too few, of another size, or of more classes than the
        generator's; UsageError for an unknown objective, a span without a step, a batch that
        processes cannot share, or nothing to compile.
        """
        options = options or TrainerOptions()
        device, world = options.device, options.world
        _check(generator, recipe, photos)
        configure(device, recipe.precision)
        _move(generator, device)
        chosen = generator.objectives
        if options.adapts and isinstance(generator, Adapting):
            chosen = generator.adapting
        objectives = chosen_objectives(tuple(chosen()), options.only)
        owned = {o.name: _networks_of(o, generator.networks) for o in objectives}
        average = {
            name: averaged_copy(generator.networks[name], recipe.ema)
            for name in dict.fromkeys(chain(*owned.values()))
        }
        feed = Feed(photos, recipe.batch, generator.latent.classes, device, world.rank, world.size)
        optimizers = tuple(optimizer_of(o, options.eight_bit) for o in objectives)
        trainer = cls(
            generator,
            recipe,
            photos,
            seed,
            feed,
            average,
            owned,
            objectives,
            optimizers,
            device,
            world,
        )
        trainer._check_spans()
        if recipe.batch % world.size:
            raise UsageError(
                "E-PROCESSES",
                f"{world.size} processes cannot share batches of {recipe.batch} images evenly",
            )
        generator.networks.train()
        if options.compiled:
            _compile(generator, average)
        return trainer

    def _check_spans(self) -> None:
        """Raise UsageError if the run is too short for one of its objectives."""
        for objective in self.objectives:
            first, last = self.span(objective)
            if first >= last:
                raise UsageError(
                    "E-SPAN",
                    f"none of the run's {self.steps} steps is left for {objective.name}",
                    hint="train on more --images",
                )

    @property
    def steps(self) -> int:
        return math.ceil(self.recipe.images / self.recipe.batch)

    @property
    def over(self) -> bool:
        return self.ended or self.step == self.steps

    @property
    def images(self) -> int:
        """The number of training images seen so far by all processes, counted with repeats."""
        return self.step * self.recipe.batch

    @property
    def averages(self) -> nn.ModuleDict:
        """The averaged networks by name."""
        return nn.ModuleDict(
            {
                name: self.average[name].module if name in self.average else net
                for name, net in self.generator.networks.items()
            }
        )

    def span(self, objective: Objective) -> tuple[int, int]:
        """Return the steps [first, last) in which the objective trains."""
        return round(objective.span[0] * self.steps), round(objective.span[1] * self.steps)

    def run(self) -> Iterator[dict[str, float]]:
        """Train until the recipe's images are seen, and yield the loss of each active objective
        after every step; it is not finite if the update was skipped.

        EdgegenError after GIVE_UP such steps in a row.
        """
        bad, entered = 0, False
        while not self.over:
            if not entered or any(self.step in self.span(o) for o in self.objectives):
                self._turn()
                entered = True
            report = self._step()
            self.step += 1
            skipped = any(not math.isfinite(loss) for loss in report.values())
            bad, self.skipped = (bad + 1, self.skipped + 1) if skipped else (0, self.skipped)
            if bad >= GIVE_UP:
                raise EdgegenError(
                    "E-NONFINITE",
                    f"the loss was not finite for {bad} steps in a row, last at step {self.step}: "
                    f"{report}",
                    hint="lower the rate, or check the photos; the last checkpoint is intact",
                )
            yield report

    def lessons(self, count: int, use: str = "lessons") -> Iterator[Batch]:
        """Yield `count` whole batches for measuring or teaching before training.

        They are drawn independently of the run's own batches.
        """
        seed = mix(self.seed, 0, use)
        return (self.feed.whole(k, seed) for k in range(count))

    def _active(self) -> list[int]:
        return [
            k
            for k, o in enumerate(self.objectives)
            if self.span(o)[0] <= self.step < self.span(o)[1]
        ]

    def _turn(self) -> None:
        """Do what is due before this step: networks of ended spans take their averages, objectives
        begin, and training modes are set.
        """
        for objective in self.objectives:
            if self.span(objective)[1] == self.step:
                for name in self.owned[objective.name]:
                    copy_weights(self.average[name].module, self.generator.networks[name])
        active = [self.objectives[k] for k in self._active()]
        moving = {name for objective in active for name in self.owned[objective.name]}
        for objective in active:
            if self.span(objective)[0] == self.step and objective.begin is not None:
                self._begin(objective, objective.begin)
        for name, network in self.generator.networks.items():
            network.train(name in moving)  # networks not in training run in eval mode, as shipped
        updating = [
            net
            for name, net in self.generator.networks.items()
            if name in moving or name not in self.average
        ]
        self._buffers = Buffers(updating)

    def _begin(self, objective: Objective, begin: Callable[[Iterator[Batch]], None]) -> None:
        """Call the objective's `begin` in eval mode with fresh batches (an epoch's, at least
        LESSONS), and start its averages from the weights that it leaves.
        """
        use = f"begin/{objective.name}"
        self.generator.networks.eval()
        with torch.no_grad(), self._stream(use):
            begin(self.lessons(max(LESSONS, len(self.photos) // self.recipe.batch), use))
        for name in self.owned[objective.name]:
            copy_weights(self.generator.networks[name], self.average[name].module)

    def _step(self) -> dict[str, float]:
        """Update each active objective once, and then the averages of the updated networks."""
        losses: dict[str, Tensor] = {}
        whole = self.feed.batch(self.step, self.seed)
        batches: dict[float, Batch] = {}  # objectives with one span share one Batch
        for k in self._active():
            objective, (first, last) = self.objectives[k], self.span(self.objectives[k])
            progress = objective.progress(self.step / self.steps)
            batch = batches.setdefault(progress, replace(whole, progress=progress))
            rate = (
                self.recipe.rate
                * objective.rate
                * _fraction(self.step - first, last - first, self.recipe.warmup)
            )
            with self._stream(f"dropout/{objective.name}"):
                losses[objective.name] = update(
                    objective,
                    self.optimizers[k],
                    batch,
                    rate,
                    self._buffers,
                    self.recipe.precision,
                    self.world,
                )
        # the only place where the host waits for a GPU
        values = torch.stack(list(losses.values())).tolist() if losses else []
        report = dict(zip(losses, values, strict=True))
        for name, average in self.average.items():
            moved = [
                report[o.name]
                for o in self.objectives
                if o.name in report and name in self.owned[o.name]
            ]
            if moved and all(map(math.isfinite, moved)):
                average.update_parameters(self.generator.networks[name])
        return report

    @contextmanager
    def _stream(self, use: str) -> Iterator[None]:
        """Seed torch's own random numbers (dropout) by step and use during the block, and restore
        the caller's state after it.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(mix(self.seed, self.step, use))
            yield


def _move(generator: Generator, device: torch.device) -> None:
    """Move the networks to the device, with convolution weights in channels-last layout.

    That is 1.5 x faster on a CPU with bf16 and 1.03 x with fp32 (cas-dm's photos32, one thread),
    and suits the tensor cores of a GPU.
    """
    for parameter in generator.networks.to(device).parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if isinstance(generator, Judged) and generator.judge is not None:
        generator.judge.to(device)


def _check(generator: Generator, recipe: Recipe, photos: Source) -> None:
    if len(photos) < recipe.batch:
        raise InputError(
            "E-DATA-TOO-FEW",
            f"training needs at least {recipe.batch} photos (one batch), got {len(photos)}",
        )
    channels, height, width = generator.image_shape
    if photos.shape != (height, width, channels):
        raise InputError(
            "E-DATA-SIZE",
            f"the generator makes {height} x {width} x {channels} images, "
            f"the photos are {' x '.join(map(str, photos.shape))}",
        )
    classes = generator.latent.classes
    if classes and not (photos.labels.min() >= 0 and photos.labels.max() < classes):
        raise InputError(
            "E-DATA-CLASSES",
            f"the generator has {classes} classes, the photos' labels go from "
            f"{photos.labels.min()} to {photos.labels.max()}",
        )


def _networks_of(objective: Objective, networks: nn.ModuleDict) -> tuple[str, ...]:
    """Return the names of the networks that hold parameters of the objective."""
    mine = {id(p) for p in objective.params}
    return tuple(
        name for name, net in networks.items() if any(id(p) in mine for p in net.parameters())
    )


def chosen_objectives(objectives: tuple[Objective, ...], only: str | None) -> tuple[Objective, ...]:
    """Return all objectives, or only the named one, whose span becomes the whole run.

    UsageError for an unknown name.
    """
    if only is None:
        return objectives
    chosen = tuple(replace(o, span=(0.0, 1.0)) for o in objectives if o.name == only)
    if not chosen:
        raise UsageError(
            "E-OBJECTIVE",
            f"there is no objective {only!r}; known: {', '.join(o.name for o in objectives)}",
        )
    return chosen


def _compile(generator: Generator, names: Iterable[str]) -> None:
    """Compile the forward pass of these networks in place.

    UsageError if the family's losses differentiate it twice.
    """
    if isinstance(generator, TwiceDifferentiated):
        raise UsageError(
            "E-COMPILE",
            "torch.compile cannot differentiate this family's networks twice, as its losses do",
            hint="leave --compile out",
        )
    for name in names:
        generator.networks[name].compile(dynamic=False)


def _fraction(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate: a linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def averaged(trainer: Trainer) -> dict[str, Tensor]:
    """Return the tensors of the averaged networks by name."""
    return {k: v.clone() for k, v in trainer.averages.state_dict().items()}


def shipped(trainer: Trainer) -> dict[str, Tensor]:
    """Return the tensors of those averaged networks that ship."""
    names = trainer.generator.shipped.state_dict().keys()
    return {k: v for k, v in averaged(trainer).items() if k in names}
