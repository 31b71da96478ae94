"""How large a share may be, given how many of so many were counted; exact, without a normal limit.
(numpy only)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..core.verdict import Interval
from ..errors import UsageError
from .distances import Float64

HALVINGS = 60  # of [0, 1] when a limit is looked for: as exact as a float64
FIRST = 0.4  # of the error, that the first look may use
ASKED = 20  # times at most that a lower end is asked for
MOST = 8  # looks


def at_most(count: int, total: int, share: float) -> float:
    """Probability that at most `count` of `total` are counted where `share` of all would be."""
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
    """Logarithm of the number of ways to pick 0, 1, ... most of total."""
    picked = np.arange(1, most + 1)
    return np.concatenate([[0.0], np.cumsum(np.log((total - picked + 1) / picked))])


def upper_limit(count: int, total: int, level: float) -> float:
    """What the share is below, at this level, when count of total were seen (Clopper and Pearson
    1934, one side).
    """
    if count >= total:
        return 1.0
    low, high = count / total, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(count, total, middle) > 1 - level else (low, middle)
    return high


def lower_limit(count: int, total: int, level: float) -> float:
    """What the share is above, at this level (Clopper and Pearson 1934, the other side)."""
    return 1 - upper_limit(total - count, total, level)


@dataclass(frozen=True)
class ShareLooks:
    """When a count is looked at so that a share of `limit` or more passes with no more probability
    than `error`, all looks together.

    There is a look after just as many pairs as let 0, 1, 4, 9, ... counted ones pass. The first,
    which good images pass, may use FIRST of the error; the others bound the share at one level, the
    lowest at which the probability that any look passes, computed exactly from look to look, is no
    more than `error` (the boundary of Pocock 1977, for counts).
    """

    limit: float  # that the share must stay below
    error: float  # probability that it passes though it does not
    maximum: int  # pairs

    def __post_init__(self) -> None:
        """UsageError for a limit or an error that is no probability."""
        if not (0 < self.limit < 1 and 0 < self.error < 1 and self.maximum > 0):
            raise UsageError(
                "E-LOOKS",
                "a share needs a limit and an error between 0 and 1 and at least one pair, got "
                f"{self.limit}, {self.error}, {self.maximum}",
            )

    @property
    def first(self) -> int:
        """Pairs at the first look, of which none may be counted; it may be beyond the maximum."""
        return math.ceil(math.log(FIRST * self.error) / math.log1p(-self.limit))

    @property
    def least(self) -> float:
        """The smallest limit that `maximum` pairs without a counted one can show."""
        return float(1 - (FIRST * self.error) ** (1 / self.maximum))

    @cached_property
    def later_error(self) -> float:
        """Of the bound at each look but the first."""
        low, high = self.error / self.maximum, self.error
        for _ in range(HALVINGS // 3):
            middle = math.sqrt(low * high)
            fits = self._passes(self._looks(middle), self.limit) <= self.error
            low, high = (middle, high) if fits else (low, middle)
        return low

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Pairs at each look; none where even no counted one in `maximum` pairs says too little."""
        return self._looks(self.later_error)

    def level(self, pairs: int) -> float:
        """Of the bound at that look."""
        return 1 - (FIRST * self.error if pairs <= self.first else self.later_error)

    def passing(self, share: float, by: int | None = None) -> float:
        """Probability that a look passes, `by` so many pairs, where `share` of all pairs would be
        counted.
        """
        looks = self.looks if by is None else tuple(n for n in self.looks if n <= by)
        return self._passes(looks, share)

    def interval(self, count: int, pairs: int) -> Interval:
        """Of the share after so many pairs. Its upper end errs as often as the look may; its lower
        end, asked ASKED times at most, errs with the probability `error` in all.
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
        """Exact: look by look, how probable each count is that has not passed yet."""
        most = len(looks) ** 2  # counts beyond never pass
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
    """Pairs of which no more than `allowed` counted bound the share below the limit; most + 1 where
    that many do not.
    """
    low, high = more_than, most + 1  # low does not, high does or is too many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(allowed, middle, limit) <= error else (middle, high)
    return high


def _probabilities(pairs: int, share: float, most: int) -> Float64:
    """That 0, 1, ... most of these pairs are counted."""
    most = min(most, pairs)
    if not 0 < share < 1:
        return np.eye(most + 1)[0 if share <= 0 else most] * float(share <= 0 or most == pairs)
    picked = np.arange(most + 1)
    logs = _log_ways(pairs, most) + picked * math.log(share) + (pairs - picked) * math.log1p(-share)
    out: Float64 = np.exp(logs)
    return out
