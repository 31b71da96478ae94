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

# the debiasing graph is told 1000 t, the range that embeddings of timesteps are made for
TIMES = 1000.0
VARIANCES = ("upper", "lower")
BRIDGE_SOLVERS = ("euler", "heun", SECOND_ORDER)


@dataclass(frozen=True)
class BridgeSampler:
    """`coarse` draws from the density estimate; `debias` is asked for a clean image once a level t
    (Heun: twice before the last; "dpm++2m", of second order as well: once).

    levels: descending, from 1 (coarse) to above 0; none of them ends after the coarse image; noise:
    k, the bridge's; variance: of fresh noise, "lower" (exact given the clean image) or "upper";
    restore: `debias` also takes the coarse image.
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
        self._ahead()  # levels that this solver cannot use

    def _ahead(self) -> tuple[float, ...]:
        """The path is that of x' = (x - clean) / t: an x with signal 1 and noise t."""
        return lookahead(self.solver, [-math.log(level) for level in self.levels])

    @property
    def timesteps(self) -> tuple[float, ...]:
        """What `debias` is told at each level."""
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
        # (b, 3) uniform: what chooses is computed here, alike for all
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
        """coarse (b, c, h, w) -> the same without its bias, not clipped; the last step returns
        debias's clean image as it is.
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
    """From level t to s < t: the step size a, and the standard deviation b of fresh noise, 0 at the
    last step.
    """
    spread = noise * (t - s) ** 0.5 if s else 0.0
    return (t - s) / t, spread if variance == "upper" else spread * (s / t) ** 0.5


def power_levels(steps: int, power: float = 1.0) -> tuple[float, ...]:
    """t_n = (1 - n / steps)^power: 1 is the harmonic step size 1 / (steps - n), above 1 takes more
    steps near the clean image.
    """
    if not 1 <= steps <= 1000 or not 0 < power <= 8:
        raise ValueError(
            f"steps must be between 1 and 1000 and the power above 0 and at most 8, got {steps} "
            f"and {power}"
        )
    return tuple(((steps - n) / steps) ** power for n in range(steps))


def approximation_levels(steps: int, gain: float, offset: float, decay: float) -> tuple[float, ...]:
    """Levels of the step sizes a_n = gain / (n + offset)^decay, decay in (1/2, 1] (Robbins-Monro):
    t falls by 1 - a_n a step.

    What is left after `steps` - 1 of them goes in one last step with a = 1.
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
