"""The config of an lcd: the shapes of its networks, its schedule, its condition, and the networks
that it samples with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...core.samplers import (
    DIFFUSION_SOLVERS,
    RENOISE,
    ConsistencySampler,
    DiffusionSolver,
    LatentDdimSampler,
    Renoise,
    alphas_bar,
    trailing,
)
from .. import STRICT
from ..metrics import SMALLEST
from ..unet import ACTIVATIONS, Activation, Norm, UNetConfig
from .consistency import few_steps, solver_grid

Way = Literal["student", "teacher", "control"]
Hint = Literal["edges", "luminance", "boxes"]
Distil = Literal["ends", "steps"]
WAYS: tuple[Way, ...] = ("student", "teacher", "control")
HINTS: tuple[Hint, ...] = ("edges", "luminance", "boxes")
DISTIL: tuple[Distil, ...] = ("ends", "steps")
# Default number of steps of the student's sampler. Numbers that divide it suit the student as well.
FEW = 4
STEPS: dict[Way, int] = {"student": FEW, "teacher": 50, "control": FEW}


@dataclass(frozen=True)
class CoderConfig:
    """The shape of encoder and decoder; each level halves height and width."""

    __pydantic_config__: ClassVar = STRICT

    widths: tuple[int, ...] = (32, 64)  # channels of each level, finest first
    blocks: int = 1  # residual blocks per level
    norm: Norm = "batch"
    activation: Activation = "relu"
    # side in pixels of the patches that are folded into channels before the first level
    patch: int = 1

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or any(w < 16 or w % 16 for w in self.widths):
            raise ValueError(
                "coder widths must be two or more multiples of 16 (INT8 kernels), got "
                f"{self.widths}"
            )
        if (
            min(self.blocks, self.patch) < 1
            or self.norm not in ("batch", "group", "none")
            or self.activation not in ACTIVATIONS
        ):
            raise ValueError(
                f"blocks and patch must be at least 1, norm and activation known, got {self}"
            )

    @property
    def factor(self) -> int:
        """The side in pixels of the cell that becomes one latent position."""
        return self.patch << (len(self.widths) - 1)


@dataclass(frozen=True)
class LcdConfig:
    """The config of one generator: autoencoder, U-Net, condition, schedule and sampler."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32  # pixels a side
    channels: int = 3
    classes: int = 10  # 0 for unconditional
    z: int = 4  # channels of a latent
    coder: CoderConfig = field(default_factory=CoderConfig)
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(widths=(64, 80), patch=1, embedding=96)
    )
    # sides of feature maps, in positions, at which there is attention
    attend: tuple[int, ...] = (8, 4)
    # "folded" suits INT8; "spatial" is the LDM's, with layer norms and GEGLU
    transformer: Literal["folded", "spatial"] = "folded"
    head: int = 40  # channels of an attention head
    context: int = 64  # width of a context token
    tokens: int = 4  # number of tokens of a class, and of an embedding vector
    # n > 0: the mean colours of n x n fields are a condition too, as an embedding vector
    palette: int = 0
    schedule: Literal["ldm", "linear", "cosine"] = "ldm"
    timesteps: int = 1000
    # N_s: timesteps of the solver from which the student learns
    grid: int = 50
    prediction: Literal["v", "epsilon"] = "v"
    # probability of each augmentation of training photos, given to the teacher (transforms.py)
    augment: float = 0.0
    # probability that training drops the label, and independently the vector
    null: float = 0.1
    guidance: float = 2.0  # g of e_u + g (e_c - e_u); the student's w is g - 1
    w_max: float = 3.0  # the student learns every w from 0 to this
    # the student's targets: ends of trajectories, or its own average one step further ("steps")
    distil: Distil = "ends"
    solver: int = 16  # steps of a trajectory for "ends"
    # with "steps", the decay of the student's average
    decay: float = 0.95
    # weight of PDist in the losses of autoencoder and student; 0 for none
    perceptual: float = 1.0
    kl: float = 1e-6  # weight of the KL divergence, for sums as in the LDM
    hint: Hint = "edges"  # the kind of image that control follows
    way: Way = "student"  # the networks that graphs() and the sampler use
    like: bool = False  # whether those graphs take the embedding vector
    steps: int | None = None  # of the sampler; None means 4, or 50 for the teacher
    renoise: Renoise = "own"  # noise between the student's steps
    # solver of the teacher's sampler; "dpm++2m" is of second order with as many calls
    teacher_solver: DiffusionSolver = "ddim"

    def __post_init__(self) -> None:
        step = self.coder.factor * self.unet.patch << (len(self.unet.widths) - 1)
        if self.size < SMALLEST or self.size % step:
            raise ValueError(
                f"size {self.size} must divide by {step} (coder, patch and levels) and be at least "
                f"{SMALLEST}"
            )
        self._check_choices()
        self._check_networks()
        self._check_training()
        # An impossible sampler should fail before the training, not after it.
        self.sampler()

    def _check_choices(self) -> None:
        for name, known in (
            ("transformer", ("folded", "spatial")),
            ("schedule", ("ldm", "linear", "cosine")),
            ("prediction", ("v", "epsilon")),
            ("hint", HINTS),
            ("way", WAYS),
            ("distil", DISTIL),
            ("renoise", RENOISE),
            ("teacher_solver", DIFFUSION_SOLVERS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
                )

    def _check_networks(self) -> None:
        if (
            min(self.channels, self.z, self.head, self.context, self.tokens) < 1
            or min(self.classes, self.palette) < 0
        ):
            raise ValueError(f"numbers must be at least 1 (classes and palette 0), got {self}")
        if self.unet.attention:
            raise ValueError(
                "the sides in `attend` say where attention is: unet.attention must be false"
            )
        for width in self.attended:
            if width % self.head:
                raise ValueError(
                    f"a width of {width} channels does not divide into heads of {self.head}"
                )
        if self.palette and self.size % self.palette:
            raise ValueError(f"size {self.size} must divide by palette {self.palette}")
        if self.like and (not self.palette or self.way == "control"):
            raise ValueError(
                "like needs a palette that the networks were trained with, and a way other than "
                "control"
            )

    def _check_training(self) -> None:
        if not (0 <= self.null < 1 and 0 <= self.decay < 1 and 0 < self.w_max < math.inf):
            raise ValueError(
                f"null and decay must be in [0, 1) and w_max above 0, got {self.null}, "
                f"{self.decay}, {self.w_max}"
            )
        if not 1 <= self.guidance <= 1 + self.w_max:
            raise ValueError(
                f"guidance must be in [1, 1 + w_max], which the student learns, got {self.guidance}"
            )
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment must be in [0, 1], a probability, got {self.augment}")
        if not (0 <= self.perceptual < math.inf and 0 <= self.kl < math.inf):
            raise ValueError(
                f"perceptual and kl must be 0 or more, got {self.perceptual}, {self.kl}"
            )
        solver_grid(self.timesteps, self.grid)
        if self.solver % FEW or not FEW <= self.solver <= self.grid:
            raise ValueError(
                f"solver must be a multiple of {FEW} (the student's steps are among its own) up to "
                f"{self.grid}, "
                f"got {self.solver}"
            )

    @property
    def side(self) -> int:
        """The side of a latent, in positions."""
        return self.size // self.coder.factor

    @property
    def attended(self) -> tuple[int, ...]:
        """The widths of the levels with attention."""
        finest = self.side // self.unet.patch
        return tuple(
            w for level, w in enumerate(self.unet.widths) if finest >> level in self.attend
        )

    @property
    def vector(self) -> int:
        """The length of the embedding vector."""
        return self.channels * self.palette**2

    @property
    def hint_channels(self) -> int:
        return self.channels + 1 if self.hint == "boxes" else 1

    @property
    def solved(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The timesteps of the trajectories from which the student learns, and abar at each."""
        timesteps, levels = (
            few_steps(self.timesteps, self.grid, self.solver),
            alphas_bar(self.schedule, self.timesteps),
        )
        return timesteps, tuple(float(levels[t + 1]) for t in timesteps)

    def sampler(self) -> LatentDdimSampler | ConsistencySampler:
        """Return the sampler for the config's way.

        ValueError for a number of steps that its schedule does not have.
        """
        levels = alphas_bar(self.schedule, self.timesteps)
        steps = STEPS[self.way] if self.steps is None else self.steps
        if self.way == "teacher":
            timesteps = tuple(t - 1 for t in trailing(self.timesteps, steps))
            signal = tuple(float(levels[t + 1]) for t in timesteps)
            return LatentDdimSampler(
                timesteps,
                signal,
                self.prediction,
                self.guidance if self.classes else 1.0,
                solver=self.teacher_solver,
            )
        timesteps = few_steps(self.timesteps, self.grid, steps)
        return ConsistencySampler(
            timesteps, tuple(float(levels[t + 1]) for t in timesteps), self.prediction, self.renoise
        )
