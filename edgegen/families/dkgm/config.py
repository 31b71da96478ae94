"""The config of a dkgm: its density estimate, its two networks, and the iteration from coarse to
clean images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...core.samplers import BridgeSampler, approximation_levels, power_levels
from .. import STRICT
from ..unet import UNetConfig

Backbone = Literal["unet", "dae"]
CHOICES = {
    "mode": ("pixel", "dae", "latent"),
    "kernel": ("gaussian", "epanechnikov", "radial"),
    "bank": ("exemplars", "centroids"),
    "coarse_net": ("unet", "dae"),
    "debias_net": ("unet", "dae"),
    "weighting": ("scaled", "image"),
    "times": ("uniform", "grid"),
    "schedule": ("power", "approximation"),
}


@dataclass(frozen=True)
class DkgmConfig:
    """The config of one generator; the defaults are those of docs/methods/dkgm.md."""

    __pydantic_config__: ClassVar = STRICT

    size: int = 32  # pixels a side
    channels: int = 3
    classes: int = 10  # 0 for unconditional
    # how stage 1 turns the kernel's draw into a coarse image
    mode: Literal["pixel", "dae", "latent"] = "dae"
    kernel: Literal["gaussian", "epanechnikov", "radial"] = "gaussian"
    # h, in units of pixel values in [-1, 1], or of codes in mode "latent"
    bandwidth: float = 1.0
    # exemplars are training vectors themselves, centroids are means of several
    bank: Literal["exemplars", "centroids"] = "centroids"
    bank_size: int = 512  # exemplars per class
    kde_centroids: int = 64  # centroids per class
    # photos per class from which the bank is made
    bank_fit: int = 2000
    coarse_net: Backbone = "dae"  # g of stage 1
    coarse: UNetConfig = field(default_factory=UNetConfig)
    code: int = 16  # channels of a latent code
    # side in pixels of the cell that one position of a code covers
    code_cell: int = 4
    debias_net: Backbone = "unet"  # G of stage 2
    debias: UNetConfig = field(default_factory=UNetConfig)
    # the bridge's noise k, needed if several photos have the same coarse image
    noise: float = 0.3
    # side in pixels of what was one pixel to the networks that it grew from
    stretch: int = 1
    # units of stage 2's error: those of F ("scaled") or of pixels ("image")
    weighting: Literal["scaled", "image"] = "scaled"
    # levels at which stage 2 trains: all ("uniform") or the sampler's ("grid")
    times: Literal["uniform", "grid"] = "uniform"
    # whether G also sees the coarse image, which keeps each image paired with it
    cond_coarse: bool = False
    # probability of each augmentation of training photos, given to the networks (transforms.py)
    augment: float = 0.0
    steps: int = 20  # N
    schedule: Literal["power", "approximation"] = "power"
    power: float = 2.0  # t_n = (1 - n / N)^power
    # c, n0, rho of a_n = c / (n + n0)^rho ("approximation")
    gain: tuple[float, float, float] = (1.0, 2.0, 1.0)
    variance: Literal["upper", "lower"] = "upper"
    solver: Literal["euler", "heun", "dpm++2m"] = "euler"
    share: float = 0.25  # share of the run for stage 1

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        for name, net in (("coarse", self.coarse), ("debias", self.debias)):
            cell = net.patch * 2 ** (len(net.widths) - 1)
            if self.size % cell:
                raise ValueError(
                    f"size {self.size} must divide by {cell} (patch and levels of {name})"
                )
        if (
            self.size < 8
            or min(self.channels, self.stretch) < 1
            or self.classes < 0
            or self.size % self.stretch
        ):
            raise ValueError(
                "size must be at least 8, channels 1, classes 0, and stretch a divisor of size, "
                f"got {self.size}, "
                f"{self.channels}, {self.classes}, {self.stretch}"
            )
        if min(self.bank_size, self.kde_centroids, self.bank_fit) < 1:
            raise ValueError(
                f"bank_size, kde_centroids and bank_fit must be at least 1, got "
                f"{self.bank_size}, {self.kde_centroids} and {self.bank_fit}"
            )
        if (
            self.code_cell not in (2, 4, 8)
            or self.size % self.code_cell
            or self.code < 1
            or self.code % 16
        ):
            raise ValueError(
                "code_cell must be 2, 4 or 8 and divide size, code a multiple of 16, got "
                f"{self.code_cell}, {self.code}"
            )
        if self.code > self.channels * self.code_cell**2:
            raise ValueError(
                "a code must not be larger than its image: at most "
                f"{self.channels * self.code_cell**2} channels "
                f"for cells of {self.code_cell}, got {self.code}"
            )
        if not 0 < self.bandwidth <= 100 or not 0 < self.share < 1:
            raise ValueError(
                f"bandwidth must be in (0, 100] and share in (0, 1), got {self.bandwidth} and "
                f"{self.share}"
            )
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment must be in [0, 1], a probability, got {self.augment}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        self.sampler()  # an impossible sampler should fail before the training, not after it

    @property
    def exemplars(self) -> int:
        """The number of vectors per class in the bank."""
        return self.bank_size if self.bank == "exemplars" else self.kde_centroids

    @property
    def vector(self) -> tuple[int, int, int]:
        """The shape of one vector of the bank: that of an image, or of a code."""
        cells = self.size // self.code_cell
        return (
            (self.code, cells, cells)
            if self.mode == "latent"
            else (self.channels, self.size, self.size)
        )

    def sampler(
        self,
        steps: int | None = None,
        power: float | None = None,
        variance: str | None = None,
        solver: str | None = None,
    ) -> BridgeSampler:
        """Return the config's sampler, or one with other steps, power, variance or solver.

        steps: 0 ends with the coarse images.
        """
        steps = self.steps if steps is None else steps
        levels: tuple[float, ...] = ()
        if steps:
            levels = (
                power_levels(steps, self.power if power is None else power)
                if self.schedule == "power"
                else approximation_levels(steps, *self.gain)
            )
        return BridgeSampler(
            levels, self.noise, variance or self.variance, solver or self.solver, self.cond_coarse
        )
