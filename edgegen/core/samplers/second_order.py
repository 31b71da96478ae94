"""DPM-Solver++(2M) on clean images (Lu et al. 2022, arXiv 2211.01095, Algorithm 2), a deterministic
second-order multistep solver with one call per step.

A DDIM step is exact if the clean image stays constant. This solver assumes that it continues to
move in a straight line over the half log-SNR, so its step is a DDIM step towards a clean image
ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

DiffusionSolver = Literal["ddim", "dpm++2m"]
DIFFUSION_SOLVERS: tuple[DiffusionSolver, ...] = ("ddim", "dpm++2m")
SECOND_ORDER = "dpm++2m"


def half_log_snr(signal: float) -> float:
    """Return half the log of the signal-to-noise ratio for abar in (0, 1)."""
    return 0.5 * math.log(signal / (1 - signal))


def lookahead(solver: str, places: Sequence[float]) -> tuple[float, ...]:
    """Return how far beyond the clean image each step aims, in units of the clean image's movement
    since the previous step; all 0 for solvers other than "dpm++2m".

    places: rising half log-SNR of each step. The value is 0 at the first step, which has no earlier
    image, and at the last, which ends at infinite half log-SNR. ValueError if places do not rise.
    """
    if solver != SECOND_ORDER:
        return (0.0,) * len(places)
    lengths = [after - before for before, after in pairwise(places)]
    if not all(length > 0 for length in lengths):
        raise ValueError(f"two levels are too close to each other for the solver {SECOND_ORDER}")
    ahead = tuple(now / (2 * before) for before, now in pairwise(lengths))
    return (0.0, *ahead, 0.0)[-len(places) :] if places else ()


def signal_lookahead(solver: str, signal: Sequence[float]) -> tuple[float, ...]:
    """Return the `lookahead` of each step from its abar.

    ValueError for a solver that is not in DIFFUSION_SOLVERS.
    """
    if solver not in DIFFUSION_SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(DIFFUSION_SOLVERS)}")
    return lookahead(solver, [half_log_snr(level) for level in signal])
