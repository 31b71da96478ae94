"""DKGM's loop (docs/methods/dkgm.md, D.2.3): a coarse image, then stochastic approximation towards
the image without its bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..spec import Values
from .base import UNTIMED, Call, Draw, told
from .second_order import SECOND_ORDER, lookahead

# The debiasing graph receives 1000 t, because timestep embeddings are made for that range.
TIMES = 1000.0
VARIANCES = ("upper", "lower")
BRIDGE_SOLVERS = ("euler", "heun", SECOND_ORDER)


@dataclass(frozen=True)
class BridgeSampler:
    """DKGM's sampler: the graph `coarse` draws from the density estimate, and the graph `debias`
    predicts a clean image once per level t (twice before the last level with Heun's solver).

    levels: descending from 1 (the coarse image) to above 0; without any the coarse image is the
    result. noise: the bridge's noise k. variance: of fresh noise, "lower" (exact given the clean
    image) or "upper". solver: "euler", or of second order "heun" or "dpm++2m". restore: whether
    `debias` also takes the coarse image.
    """

    levels: tuple[float, ...]
    noise: float = 0.3
    variance: str = "upper"
    solver: str = "euler"
    restore: bool = False
    kind: str = "bridge"

    def __post_init__(self) -> None:
        if (
            self.variance not in VARIANCES
            or self.solver not in BRIDGE_SOLVERS
            or self.kind != "bridge"
        ):
            raise ValueError(
                f"unknown variance {self.variance!r}, solver {self.solver!r} or kind {self.kind!r}"
            )
        if self.levels and self.levels[0] != 1:
            raise ValueError(f"the first level must be 1 (the coarse image), got {self.levels[0]}")
        if any(not a > b for a, b in pairwise((*self.levels, 0.0))):
            raise ValueError(f"levels must fall and stay above 0, got {self.levels}")
        if not 0 <= self.noise <= 10:
            raise ValueError(f"noise must be in [0, 10], got {self.noise}")
        if self.solver == "heun" and self.noise:
            raise ValueError(f"Heun's solver is for noise 0 (an ODE), got noise {self.noise}")
        if self.solver == SECOND_ORDER and self.noise:
            raise ValueError(
                f"the solver {SECOND_ORDER} is for noise 0 (an ODE), got noise {self.noise}"
            )
        self._ahead()  # raises ValueError for levels that this solver cannot use

    def _ahead(self) -> tuple[float, ...]:
        """Return the lookahead at each level of x' = (x - clean) / t, with signal 1 and noise t."""
        return lookahead(self.solver, [-math.log(level) for level in self.levels])

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timestep that `debias` receives at each level."""
        return tuple(told(TIMES * t) for t in self.levels) or UNTIMED

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, c, h, w) standard normal, the kernel's draw -> images (b, c, h, w) in [-1, 1]."""
        two = draw("pick")[:, 0, :2, :3]
        # (b, 3) uniform in (0, 1], computed here so that the choice is the same on all runtimes
        pick = np.e ** ((two[:, 0] ** 2 + two[:, 1] ** 2) * -0.5)
        coarse = call["coarse"](x=x, pick=pick, **condition)
        return (
            self.refine(call["debias"], coarse, condition, draw).clip(-1, 1)
            if self.levels
            else coarse.clip(-1, 1)
        )

    def refine(
        self,
        debias: Callable[..., Values],
        coarse: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """Remove the bias from the coarse images (b, c, h, w), without clipping.

        The last step returns the clean image that `debias` predicts.
        """
        seen = {"coarse": coarse, **condition} if self.restore else condition

        def clean(x: Values, level: float) -> Values:
            return debias(x=x, t=x[:, 0, 0, 0] * 0 + TIMES * level, **seen)

        x = last = coarse
        ahead = self._ahead()
        for n, (t, s) in enumerate(pairwise((*self.levels, 0.0))):
            image = clean(x, t)
            if s == 0:
                return image
            last, image = image, image + ahead[n] * (image - last) if ahead[n] else image
            gain, fresh = step(t, s, self.noise, self.variance)
            moved = x + gain * (image - x)
            if self.solver == "heun":
                slope = 0.5 * (x - image) / t + 0.5 * (moved - clean(moved, s)) / s
                moved = x + (s - t) * slope
            x = moved + fresh * draw(f"step{n}") if fresh else moved
        return x


def step(t: float, s: float, noise: float, variance: str) -> tuple[float, float]:
    """Return the step size a from level t to s < t, and the standard deviation b of fresh noise,
    which is 0 at the last step (s = 0).
    """
    spread = noise * (t - s) ** 0.5 if s else 0.0
    return (t - s) / t, spread if variance == "upper" else spread * (s / t) ** 0.5


def power_levels(steps: int, power: float = 1.0) -> tuple[float, ...]:
    """Return the levels t_n = (1 - n / steps)^power.

    Power 1 gives the harmonic step size 1 / (steps - n); a larger power puts more steps near the
    clean image. ValueError for values out of range.
    """
    if not 1 <= steps <= 1000 or not 0 < power <= 8:
        raise ValueError(
            f"steps must be between 1 and 1000 and the power above 0 and at most 8, got {steps} "
            f"and {power}"
        )
    return tuple(((steps - n) / steps) ** power for n in range(steps))


def approximation_levels(steps: int, gain: float, offset: float, decay: float) -> tuple[float, ...]:
    """Return the levels for step sizes a_n = gain / (n + offset)^decay with decay in (1/2, 1]
    (Robbins-Monro); each step multiplies t by 1 - a_n.

    The last of the `steps` steps has a = 1. ValueError for values out of range.
    """
    if steps < 1 or not 0.5 < decay <= 1 or not 0 < gain < offset**decay:
        raise ValueError(
            f"steps must be at least 1, decay in (1/2, 1] and gain / offset^decay in (0, 1), "
            f"got {steps}, {decay}, {gain} and {offset}"
        )
    levels = [1.0]
    for n in range(steps - 1):
        levels.append(levels[-1] * (1 - gain / (n + offset) ** decay))
    return tuple(levels)
