"""Intervals, and the verdicts that they give on budgets and limits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["within", "outside", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval around a value; the code that makes it states the level.

    low <= value <= high is not required, because it need not hold for a bootstrap.
    """

    value: float
    low: float
    high: float

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Verdict:
    """The verdict that an interval gives on the window [-budget, +budget].

    change and budget are fractions of the full-precision distance.

    within: the whole interval is inside; outside: it is wholly beyond one edge, or not finite;
    undecided: it straddles an edge, and about `more` further image pairs would settle it.
    """

    change: Interval
    budget: float
    images: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise ValueError(
                f"a budget must be a positive fraction such as 0.02, got {self.budget}"
            )

    @property
    def state(self) -> State:
        low, high = self.change.low, self.change.high
        if not self.change.finite or low > self.budget or high < -self.budget:
            return "outside"
        return "within" if -self.budget <= low and high <= self.budget else "undecided"

    @property
    def more(self) -> int:
        """The number of further image pairs that would decide; 0 if the verdict is decided.

        It assumes that the interval narrows with the square root of the number of pairs.
        """
        if self.state != "undecided":
            return 0
        half = (self.change.high - self.change.low) / 2
        gap = abs(self.budget - abs(self.change.value))
        needed = self.images * (half / gap) ** 2 if gap > 0 else math.inf
        return int(min(max(needed - self.images, 1), 100 * self.images))

    def __str__(self) -> str:
        statement = (
            f"{self.change.low:+.2%} to {self.change.high:+.2%} around a budget of "
            f"+-{self.budget:.2%}, {self.images} pairs"
        )
        return (
            f"undecided ({self.more} more): {statement}"
            if self.state == "undecided"
            else f"{self.state}: {statement}"
        )


@dataclass(frozen=True)
class AtMost:
    """The verdict that an interval gives on a figure that must not exceed `limit`.

    within: the whole interval is at or below the limit; outside: all of it is above, or it is not
    finite; undecided: the limit lies inside it.
    """

    figure: Interval
    limit: float

    @property
    def state(self) -> State:
        if not self.figure.finite or self.figure.low > self.limit:
            return "outside"
        return "within" if self.figure.high <= self.limit else "undecided"

    def to_json(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "limit": self.limit,
            "state": self.state,
        }


def together(states: Iterable[State]) -> State:
    """Combine several verdicts: outside if any is outside, within if all are within.

    If one limit is broken, all verdicts are within at most as often as that one alone, so no
    correction for several tests is needed (Berger 1982).
    """
    found = set(states)
    if "outside" in found:
        return "outside"
    return "undecided" if "undecided" in found else "within"
