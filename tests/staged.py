"""A toy of two stages: an autoencoder, then a corrector that reads it, measured between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import torch
from runs import PHOTOS
from torch import Tensor, nn

from edgegen.core.graph import Batch, Embedded, Graph, Objective
from edgegen.core.latent import Latent
from edgegen.core.samplers import SingleSampler
from edgegen.core.spec import TensorSpec
from edgegen.families import Recipe
from edgegen.training.loop import Trainer, TrainerOptions
from edgegen.training.processes import ALONE, World


def net(cin: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(16, 3, 1),
    )


class Corrector(nn.Module):
    """Has a scale that is measured when its stage begins."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = net(3)
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x / self.scale)


class Counter(nn.Module):
    """A network that no objective moves."""

    steps: Tensor
    light: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("light", torch.zeros(()))

    def follow(self, images: Tensor) -> None:
        """Count a step, and how bright its images were."""
        self.steps += 1
        self.light.lerp_(images.mean(), 0.3)


class Staged:
    """first: [0, half) makes images from noised ones; second: [half, end) corrects the first's."""

    config = None

    def __init__(self, half: float = 0.5, gap: float = 0.0) -> None:
        self.corrector, self.counter = Corrector(), Counter()
        self.networks = nn.ModuleDict(
            {"first": net(3), "second": self.corrector, "counter": self.counter}
        )
        self.half, self.gap = half, gap
        self.begun: list[float] = []
        self.modes: list[tuple[bool, bool]] = []

    @property
    def embeds_training_data(self) -> Embedded:
        return "none"

    @property
    def shipped(self) -> nn.ModuleDict:
        return nn.ModuleDict({name: self.networks[name] for name in ("first", "second")})

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, 8, 8

    @property
    def latent(self) -> Latent:
        return Latent(TensorSpec("x", ("batch", 3, 8, 8)))

    @property
    def sampler(self) -> SingleSampler:
        return SingleSampler(("first",))

    def graphs(self) -> Mapping[str, Graph]:
        raise AssertionError("nothing here asks for graphs")

    def objectives(self) -> Iterable[Objective]:
        first, second = (tuple(self.networks[name].parameters()) for name in ("first", "second"))
        return (
            Objective("first", first, self.first_loss, span=(0.0, self.half)),
            Objective(
                "second",
                second,
                self.second_loss,
                span=(self.half + self.gap, 1.0),
                begin=self.measure,
                rate=0.5,
            ),
        )

    def first_loss(self, batch: Batch) -> Tensor:
        self.counter.follow(batch.images)
        return self._wrong(self.networks["first"](self._noised(batch)), batch)

    def second_loss(self, batch: Batch) -> Tensor:
        self.counter.follow(batch.images)
        self.modes.append((self.networks["first"].training, self.networks["second"].training))
        with torch.no_grad():
            coarse = self.networks["first"](self._noised(batch))
        return self._wrong(self.networks["second"](coarse), batch)

    def measure(self, batches: Iterable[Batch]) -> None:
        assert not torch.is_grad_enabled() and not self.networks["second"].training
        found = torch.stack(
            [self.networks["first"](self._noised(b)).std() for b in islice(batches, 3)]
        )
        # torch's own stream is part of the run too
        self.corrector.scale.copy_(found.mean() + 0.01 * torch.rand(()))
        self.begun.append(float(self.corrector.scale))

    def _noised(self, batch: Batch) -> Tensor:
        g = batch.generator
        return batch.images + 0.5 * torch.randn(batch.images.shape, generator=g, device=g.device)

    def _wrong(self, made: Tensor, batch: Batch) -> Tensor:
        return (made.float() - batch.images).square().mean()


def staged(
    steps: int = 20,
    half: float = 0.5,
    gap: float = 0.0,
    only: str | None = None,
    world: World = ALONE,
) -> tuple[Staged, Trainer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Staged(half, gap)
    recipe = Recipe(None, images=8 * steps, batch=8, warmup=3, ema=0.9, precision="fp32")
    return made, Trainer.start(made, recipe, PHOTOS, 0, TrainerOptions(world=world, only=only))
