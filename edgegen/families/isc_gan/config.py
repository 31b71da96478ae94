"""The config of an isc-gan: the shapes of its networks, and the regularisation of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from .. import STRICT

# fewest channels of a squeezed feature; fewer cannot carry colours and shape
# (docs/methods/isc-gan.md, A.2.6)
SMALLEST = 8


@dataclass(frozen=True)
class Regularizers:
    """The settings that keep adversarial training stable (A.4); a weight of 0 drops its term."""

    __pydantic_config__: ClassVar = STRICT

    r1_gamma: float = 0.01
    r1_interval: int = 16  # discriminator steps between two R1 terms, each weighted by it
    path_weight: float = 0.0  # 0 at 32x32, as in StyleGAN2-ADA; 2 for larger images
    path_interval: int = 4  # generator steps between two path length terms
    # probability that an image takes its later styles from a second latent
    mixing: float = 0.0
    ada_target: float = 0.6  # target of E[sign D(real)]; 0 for no augmentation
    # thousands of images in which the augmentation probability can move by 1
    ada_kimg: float = 500.0

    def __post_init__(self) -> None:
        if self.r1_interval < 1 or self.path_interval < 1:
            raise ValueError(
                f"intervals must be at least 1, got {self.r1_interval} and {self.path_interval}"
            )
        if not (
            0 <= self.r1_gamma < math.inf
            and 0 <= self.path_weight < math.inf
            and 0 < self.ada_kimg < math.inf
        ):
            raise ValueError(
                f"r1_gamma and path_weight must be 0 or more and ada_kimg above 0, got {self}"
            )
        if not (0 <= self.mixing <= 1 and 0 <= self.ada_target < 1):
            raise ValueError(
                f"mixing must be in [0, 1] and ada_target in [0, 1), got {self.mixing}, "
                f"{self.ada_target}"
            )


@dataclass(frozen=True)
class IscGanConfig:
    """The config of one generator and its discriminator."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32  # pixels a side
    channels: int = 3
    classes: int = 0  # 0 for unconditional
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 2
    # generator's channels at 4x4, 8x8, ... size x size
    widths: tuple[int, ...] = (512, 512, 512, 512)
    # the paper's image squeeze connection, or StyleGAN2's
    connection: Literal["squeeze", "skip"] = "squeeze"
    # r: a squeezed feature has width / r channels
    ratio: int = 4
    # the first resolution with a squeeze connection
    isc_min_res: Literal[4, 8] = 8
    fuse: Literal["plain", "modulated"] = "plain"
    # a learned amount of noise in every convolution
    noise: bool = True
    # whether a block upsamples the input ("before", as published) or the output of its first
    # convolution
    up: Literal["before", "after"] = "before"
    # styles of generated images are w_avg + truncation * (w - w_avg)
    truncation: float = 1.0
    critic_widths: tuple[int, ...] = (512, 512, 512, 512)
    critic: Literal["residual", "plain"] = "residual"
    # number of images over which a minibatch standard deviation is taken
    group: int = 4
    regularizers: Regularizers = field(default_factory=Regularizers)
    # whether to train a trained generator for INT8 instead of the adversarial game
    qat: bool = False

    def __post_init__(self) -> None:
        levels = int(self.size).bit_length() - 2
        if self.size < 8 or self.size & (self.size - 1):
            raise ValueError(f"size must be a power of two from 8 on, got {self.size}")
        for name, widths in (("widths", self.widths), ("critic_widths", self.critic_widths)):
            if len(widths) != levels:
                raise ValueError(
                    f"size {self.size} has {levels} levels from 4x4 on, got {len(widths)} {name}"
                )
            if any(w < 16 or w % 16 for w in widths):
                raise ValueError(
                    f"{name} must be multiples of 16 (INT8 kernels work on 16 channels), got "
                    f"{widths}"
                )
        for name, known in (
            ("connection", ("squeeze", "skip")),
            ("isc_min_res", (4, 8)),
            ("fuse", ("plain", "modulated")),
            ("up", ("before", "after")),
            ("critic", ("residual", "plain")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(map(str, known))}"
                )
        if (
            min(self.z_dim, self.w_dim, self.mapping_layers, self.channels, self.ratio, self.group)
            < 1
            or self.classes < 0
        ):
            raise ValueError(f"numbers must be at least 1 (classes 0), got {self}")
        if not 0 <= self.truncation <= 1:
            raise ValueError(f"truncation must be in [0, 1], got {self.truncation}")

    @property
    def continues(self) -> bool:
        """Whether training begins from a trained generator, as training for INT8 must."""
        return self.qat

    def onto(self, trained: IscGanConfig) -> IscGanConfig:
        """Return the config `trained` with this config's `qat`."""
        return replace(trained, qat=self.qat)

    @property
    def styles(self) -> int:
        """The number of styles w of a synthesis: one per convolution on the main path, and one for
        the last colours (A.2.3).
        """
        return 2 * len(self.widths)

    def squeezed(self, width: int) -> int:
        """Return the number of channels of the squeezed feature in a block of that width."""
        return max(width // self.ratio, SMALLEST)


def widths(size: int, base: int, largest: int = 512) -> tuple[int, ...]:
    """Return the channels c(R) = min(base / R, largest) for R = 4, 8, ... size (A.2.1)."""
    return tuple(min(base // (4 << level), largest) for level in range(size.bit_length() - 2))
