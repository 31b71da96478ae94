"""Decide when a comparison looks at its pairs, and estimate what a look is likely to conclude."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ..core.verdict import AtMost, Verdict
from ..errors import UsageError
from .reference import Reference

# images for each projected direction at the first look; with fewer the interval is too narrow
# (docs/statistics.md)
LEAST = 3
LEAST_PAIRS = 500  # pairs at the first look, if there may be so many
FEW_PAIRS = (
    "from so few pairs the other limits hold only what is in most images: of damage in one of "
    "twenty, at the limit, a quarter passes."
)  # measured in docs/statistics.md


@dataclass(frozen=True)
class LookSchedule:
    """Schedule the looks of a comparison after `first` pairs, twice that, ..., `maximum`; all
    intervals hold together at `level`.
    """

    first: int = 500
    maximum: int = 4000
    level: float = 0.95

    @classmethod
    def once(cls, pairs: int) -> LookSchedule:
        """Return a schedule with one look, at all pairs."""
        return cls(pairs, pairs)


def plan_looks(first: int, maximum: int, level: float) -> list[tuple[int, float]]:
    """Return (pairs, level of the interval) of each look: first, twice that, ..., maximum.

    The error 1 - level is divided in proportion to the pairs at each look (a weighted Bonferroni
    bound), so all intervals hold together at `level` whenever the sampling stops, and the last and
    sharpest look keeps about half of it. Raises UsageError for numbers out of range.
    """
    if not 0 < first <= maximum or not 0 < level < 1:
        raise UsageError(
            "E-LOOKS",
            f"need 0 < first <= maximum and a level in (0, 1), got {first}, {maximum}, {level}",
        )
    counts = [first]
    while counts[-1] < maximum:
        counts.append(min(2 * counts[-1], maximum))
    return [(count, 1 - (1 - level) * count / sum(counts)) for count in counts]


def first_look(reference: Reference | None) -> int:
    """Return the pairs at the first look: at least LEAST_PAIRS, and four for each projected
    direction, where the interval has the coverage that it claims.
    """
    return max(LEAST_PAIRS, 4 * reference.k if reference else 0)


def chance(verdict: Verdict, look_level: float, pairs: int, level: float = 0.95) -> float:
    """Return the probability, given what was seen, that at most `pairs` fresh pairs end within the
    budget.

    The seen and the future change are normal around the true one, of which nothing else is known;
    the last look decides.
    """
    error = (
        (verdict.change.high - verdict.change.low) / 2 / NormalDist().inv_cdf((1 + look_level) / 2)
    )
    later = error * math.sqrt(verdict.images / pairs)
    # the last look keeps at least half of the error
    room = verdict.budget - NormalDist().inv_cdf(1 - (1 - level) / 4) * later
    if not verdict.change.finite or room <= 0:
        return 0.0
    if error == 0:
        return float(abs(verdict.change.value) <= room)
    expected = NormalDist(verdict.change.value, math.hypot(error, later))
    return expected.cdf(room) - expected.cdf(-room)


def chance_at_most(
    gate: AtMost, look_level: float, images: int, pairs: int, level: float = 0.95
) -> float:
    """Return the same probability for a figure that has to stay at or below a limit."""
    if not gate.figure.finite:
        return 0.0
    normal = NormalDist().inv_cdf((1 + look_level) / 2)
    error = max(gate.figure.high - gate.figure.value, 0.0) / normal
    later = error * math.sqrt(images / pairs)
    room = gate.limit - NormalDist().inv_cdf(1 - (1 - level) / 4) * later
    if error == 0:
        return float(gate.figure.value <= gate.limit)
    return NormalDist(gate.figure.value, math.hypot(error, later)).cdf(room)


def check_first_look(when: LookSchedule, reference: Reference) -> None:
    """Raise UsageError if the interval of the first look would be too narrow."""
    if when.first < LEAST * reference.k:
        raise UsageError(
            "E-LOOKS",
            f"the first look needs at least {LEAST * reference.k} images for "
            f"{reference.k} projected directions, got {when.first}",
        )
