"""A second-order multistep solver at one call a step: DPM-Solver++(2M) on clean images (Lu et al.
2022, arXiv 2211.01095, Algorithm 2), deterministic.

A DDIM step is exact for a clean image that stays as it is; this one lets it go on as it went, in
a straight line over the half log-SNR. So a step of it is DDIM's, towards a clean image ahead.
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
    """Of abar in (0, 1)."""
    return 0.5 * math.log(signal / (1 - signal))


def lookahead(solver: str, places: Sequence[float]) -> tuple[float, ...]:
    """How far beyond the clean image each step aims, in units of what the clean image has moved
    since the step before; all 0 for another solver.

    places: rising half log-SNR of each step. 0 at the first step, which knows no other image, and
    at the last, which ends where half log-SNR is infinite. ValueError where places are too close.
    """
    if solver != SECOND_ORDER:
        return (0.0,) * len(places)
    lengths = [after - before for before, after in pairwise(places)]
    if not all(length > 0 for length in lengths):
        raise ValueError(f"two levels are too close to each other for the solver {SECOND_ORDER}")
    ahead = tuple(now / (2 * before) for before, now in pairwise(lengths))
    return (0.0, *ahead, 0.0)[-len(places) :] if places else ()


def signal_lookahead(solver: str, signal: Sequence[float]) -> tuple[float, ...]:
    """The same from abar at each step. ValueError for a solver that is none of
    DIFFUSION_SOLVERS.
    """
    if solver not in DIFFUSION_SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(DIFFUSION_SOLVERS)}")
    return lookahead(solver, [half_log_snr(level) for level in signal])
