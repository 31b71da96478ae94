"""Bound a share from a count out of a total; exact, without a normal limit. It needs numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..core.verdict import Interval
from ..errors import UsageError
from .distances import Float64

HALVINGS = 60  # of [0, 1] in a search for a limit, which is then as exact as a float64
FIRST = 0.4  # share of the error that the first look may use
ASKED = 20  # times that a lower end is asked for at most
MOST = 8  # number of looks at most


def at_most(count: int, total: int, share: float) -> float:
    """Return the probability that at most `count` of `total` are counted if `share` of all would
    be.
    """
    if count >= total or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    ways = _log_ways(total, count)
    picked = np.arange(count + 1)
    logs = ways + picked * math.log(share) + (total - picked) * math.log1p(-share)
    return float(min(np.exp(logs).sum(), 1.0))


@lru_cache(maxsize=64)
def _log_ways(total: int, most: int) -> Float64:
    """Return the logarithm of the number of ways to pick 0, 1, ... `most` of `total`."""
    picked = np.arange(1, most + 1)
    return np.concatenate([[0.0], np.cumsum(np.log((total - picked + 1) / picked))])


def upper_limit(count: int, total: int, level: float) -> float:
    """Return the limit that the share is below at this level, if count of total were seen (Clopper
    and Pearson 1934, one side).
    """
    if count >= total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(count, total, middle) > 1 - level else (low, middle)
    return high


def lower_limit(count: int, total: int, level: float) -> float:
    """Return the limit that the share is above at this level (Clopper and Pearson 1934, the other
    side).
    """
    return 1 - upper_limit(total - count, total, level)


@dataclass(frozen=True)
class ShareLooks:
    """Schedule the looks at a count so that a share of `limit` or more passes with a probability of
    at most `error`, all looks together.

    There is a look after just as many pairs as let 0, 1, 4, 9, ... counted ones pass. The first,
    which good images pass, may use FIRST of the error; the others bound the share at one level, the
    lowest at which the probability that any look passes, computed exactly from look to look, is at
    most `error` (the boundary of Pocock 1977, for counts).
    """

    limit: float  # the share must stay below it
    error: float  # probability that a share at or above the limit passes
    maximum: int  # most pairs

    def __post_init__(self) -> None:
        """Raise UsageError for a limit or an error that is no probability."""
        if not (0 < self.limit < 1 and 0 < self.error < 1 and self.maximum > 0):
            raise UsageError(
                "E-LOOKS",
                "a share needs a limit and an error between 0 and 1 and at least one pair, got "
                f"{self.limit}, {self.error}, {self.maximum}",
            )

    @property
    def first(self) -> int:
        """Return the pairs at the first look, of which none may be counted; it may exceed the
        maximum.
        """
        return math.ceil(math.log(FIRST * self.error) / math.log1p(-self.limit))

    @property
    def least(self) -> float:
        """Return the smallest limit that `maximum` pairs without a counted one can show."""
        return float(1 - (FIRST * self.error) ** (1 / self.maximum))

    @cached_property
    def later_error(self) -> float:
        """Return the error of the bound at each look but the first."""
        low, high = self.error / self.maximum, self.error
        for _ in range(HALVINGS // 3):
            middle = math.sqrt(low * high)
            fits = self._passes(self._looks(middle), self.limit) <= self.error
            low, high = (middle, high) if fits else (low, middle)
        return low

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Return the pairs at each look; none if even `maximum` pairs without a counted one show
        too little.
        """
        return self._looks(self.later_error)

    def level(self, pairs: int) -> float:
        """Return the level of the bound at the look with so many pairs."""
        return 1 - (FIRST * self.error if pairs <= self.first else self.later_error)

    def passing(self, share: float, by: int | None = None) -> float:
        """Return the probability that a look passes, by `by` pairs at most, if `share` of all pairs
        would be counted.
        """
        looks = self.looks if by is None else tuple(n for n in self.looks if n <= by)
        return self._passes(looks, share)

    def interval(self, count: int, pairs: int) -> Interval:
        """Return the interval of the share after so many pairs.

        Its upper end errs as often as the look may; its lower end, asked at most ASKED times, errs
        with the probability `error` in all.
        """
        low = lower_limit(count, pairs, 1 - self.error / ASKED)
        return Interval(count / pairs, low, upper_limit(count, pairs, self.level(pairs)))

    def _looks(self, later_error: float) -> tuple[int, ...]:
        looks: list[int] = []
        pairs = self.first
        while pairs <= self.maximum and len(looks) < MOST:
            looks.append(pairs)
            pairs = _fewest(len(looks) ** 2, later_error, self.limit, pairs, self.maximum)
        return tuple(looks)

    def _passes(self, looks: tuple[int, ...], share: float) -> float:
        """Return the exact probability that a look passes, following from look to look how probable
        each count is that has not passed yet.
        """
        most = len(looks) ** 2  # counts beyond it never pass
        counts = np.eye(most + 1)[0]
        passed, before = 0.0, 0
        for number, pairs in enumerate(looks):
            more = _probabilities(pairs - before, share, most)
            counts = np.convolve(counts, more)[: most + 1]
            passed += float(counts[: number**2 + 1].sum())
            counts[: number**2 + 1] = 0
            before = pairs
        return passed


def _fewest(allowed: int, error: float, limit: float, more_than: int, most: int) -> int:
    """Return the fewest pairs of which `allowed` counted ones bound the share below the limit; most
    + 1 if not even `most` do.
    """
    low, high = more_than, most + 1  # low does not suffice; high does, or exceeds the maximum
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(allowed, middle, limit) <= error else (middle, high)
    return high


def _probabilities(pairs: int, share: float, most: int) -> Float64:
    """Return the probabilities that 0, 1, ... `most` of these pairs are counted."""
    most = min(most, pairs)
    if not 0 < share < 1:
        return np.eye(most + 1)[0 if share <= 0 else most] * float(share <= 0 or most == pairs)
    picked = np.arange(most + 1)
    logs = _log_ways(pairs, most) + picked * math.log(share) + (pairs - picked) * math.log1p(-share)
    out: Float64 = np.exp(logs)
    return out
