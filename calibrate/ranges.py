"""Choose from a histogram the range that 8 bits cover: a wider one rounds coarsely, a narrower one
cuts off what is rare.

min-max covers all; percentiles cut a fixed share; `least_error` cuts where rounding and cutting
together cost least; `entropy` is the threshold whose 8-bit histogram diverges least from the true
one (Migacz 2017, 8-bit inference with TensorRT). Errors count to the power 1.5: squared ones follow
the few images with the largest values, plain ones cut visibly (docs/decisions/0010-ranges.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgegen.core.files import JsonObject
from edgegen.core.plan import Range

from .histogram import Histogram

STEPS = 255  # steps of an 8-bit code
POWER = 1.5  # power to which an error counts
SHRINK = np.arange(40, 5, -1) / 40  # shrunk ends that `least_error` tries
LEVELS = 128  # levels of a magnitude in `entropy`
MAGNITUDES = 1024  # bins of a magnitude in `entropy`
# a largest magnitude FAR times that of the CORE of all values counts as an outlier
CORE, FAR = 0.9999, 2.0


def min_max(histogram: Histogram) -> Range:
    """Return the range of everything that was seen."""
    return histogram.seen


def percentile(histogram: Histogram, share: float) -> Range:
    """Return the smallest range that cuts at most 1 - share of the values, half of it at either
    end.
    """
    counts = histogram.counts.astype(np.float64)
    counts[_bin_of_zero(histogram)] += histogram.zeros
    below = np.cumsum(counts) / max(counts.sum(), 1)
    cut = (1 - share) / 2
    first, last = (int(np.searchsorted(below, place)) for place in (cut, 1 - cut))
    edges = histogram.seen.low + histogram.width * np.arange(len(counts) + 1)
    return _inside(histogram.seen, edges[first], edges[min(last, len(counts) - 1) + 1])


def least_error(histogram: Histogram, power: float = POWER) -> Range:
    """Return the range with the least expected error on a grid of shrunk ends; the widest of
    equals.
    """
    lows, highs = (
        end * (SHRINK if end else np.ones(1)) for end in (histogram.seen.low, histogram.seen.high)
    )
    low, high = np.unravel_index(
        int(_costs(histogram, lows, highs, power).argmin()), (len(lows), len(highs))
    )
    return Range(float(lows[low]), float(highs[high]))


def expected_error(histogram: Histogram, covered: Range, power: float = POWER) -> float:
    """Return the expected error of one value in the affine 8-bit code of `covered`, to a power:
    from rounding inside, from the distance to the end outside.
    """
    total = histogram.counts.sum() + histogram.zeros
    return float(
        _costs(histogram, np.array([covered.low]), np.array([covered.high]), power)[0, 0]
        / max(total, 1)
    )


def _costs(histogram: Histogram, lows: np.ndarray, highs: np.ndarray, power: float) -> np.ndarray:
    """Return the summed errors (lows, highs); exact zeros cost nothing."""
    under = np.maximum(lows[:, None] - histogram.centres, 0)
    over = np.maximum(histogram.centres - highs[:, None], 0)
    inside = (
        histogram.counts.sum()
        - ((under > 0) @ histogram.counts)[:, None]
        - (over > 0) @ histogram.counts
    )
    half = (highs - lows[:, None]) / STEPS / 2
    cut: np.ndarray = (under**power @ histogram.counts)[:, None] + over**power @ histogram.counts
    return half**power / (power + 1) * inside + cut


def entropy(histogram: Histogram) -> Range:
    """Return the range with the threshold on magnitudes that has the least divergence."""
    largest = max(-histogram.seen.low, histogram.seen.high)
    if not largest:
        return histogram.seen
    places = np.minimum(np.abs(histogram.centres) / largest * MAGNITUDES, MAGNITUDES - 1).astype(
        int
    )
    counts = np.bincount(places, histogram.counts, MAGNITUDES)
    best = min(
        range(LEVELS, MAGNITUDES + 1, LEVELS // 8), key=lambda bins: _divergence(counts, bins)
    )
    threshold = largest * best / MAGNITUDES
    return _inside(histogram.seen, -threshold, threshold)


def _divergence(counts: np.ndarray, bins: int) -> float:
    """Return the Kullback-Leibler divergence of the first `bins` counts, with all beyond added to
    the last, from the same in LEVELS levels.
    """
    true = counts[:bins].copy()
    coarse = np.add.reduceat(true, np.arange(LEVELS) * bins // LEVELS)
    true[-1] += counts[bins:].sum()
    level = np.searchsorted(np.arange(LEVELS) * bins // LEVELS, np.arange(bins), "right") - 1
    filled = counts[:bins] > 0
    spread = np.where(
        filled, (coarse / np.maximum(np.bincount(level, filled, LEVELS), 1))[level], 0
    )
    p, q = true / max(true.sum(), 1), spread / max(spread.sum(), 1)
    if ((p > 0) & (q == 0)).any():
        return float("inf")
    used = p > 0
    return float(p[used] @ np.log(p[used] / q[used]))


def _magnitude(histogram: Histogram, share: float) -> float:
    """Return the magnitude that `share` of the values do not exceed."""
    sizes = np.abs(histogram.centres)
    order = np.argsort(sizes, kind="stable")
    below = histogram.zeros + np.cumsum(histogram.counts[order])
    place = int(np.searchsorted(below, share * below[-1]))
    return (
        float(sizes[order[place]] + histogram.width / 2) if below[place] > histogram.zeros else 0.0
    )


def _bin_of_zero(histogram: Histogram) -> int:
    return (
        int(np.clip(-histogram.seen.low / histogram.width, 0, len(histogram.counts) - 1))
        if histogram.width
        else 0
    )


def _inside(seen: Range, low: float, high: float) -> Range:
    """Return the range cut to what was seen, with 0 inside."""
    return Range(min(0.0, max(seen.low, float(low))), max(0.0, min(seen.high, float(high))))


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "min-max": min_max,
    "percentile 99.99": lambda found: percentile(found, 0.9999),
    "percentile 99.9": lambda found: percentile(found, 0.999),
    "least error": least_error,
    "least squared error": lambda found: least_error(found, 2),
    "entropy": entropy,
}


@dataclass(frozen=True)
class Choice:
    """Hold a tensor's range, the method that gave it, and the expected error of every method over
    that of min-max.
    """

    range: Range
    method: str
    errors: Mapping[str, float]

    def to_json(self) -> JsonObject:
        return {
            "range": [self.range.low, self.range.high],
            "method": self.method,
            "errors": dict(self.errors),
        }


def chosen(histogram: Histogram) -> Choice:
    """Return the range of the method with the least expected error; the first of equals."""
    ranges = {name: method(histogram) for name, method in METHODS.items()}
    errors = {name: expected_error(histogram, covered) for name, covered in ranges.items()}
    best = min(errors, key=errors.__getitem__)
    return Choice(
        ranges[best],
        best,
        {name: error / errors["min-max"] if error else 0.0 for name, error in errors.items()},
    )


@dataclass(frozen=True)
class Shape:
    """Hold what is odd about a tensor: only one value, nothing on one side of 0, or a largest value
    far beyond all others.

    `outlier` is the largest magnitude over the 99.99 percentile of magnitudes if that is FAR or
    more, else 0.
    """

    constant: bool
    one_sided: bool
    outlier: float

    @classmethod
    def of(cls, histogram: Histogram) -> Shape:
        used = np.flatnonzero(histogram.counts)
        constant = len(used) + (histogram.zeros > 0) < 2
        usual, largest = _magnitude(histogram, CORE), max(-histogram.seen.low, histogram.seen.high)
        factor = largest / usual if usual else 0.0
        return cls(
            constant,
            not constant and 0 in (histogram.seen.low, histogram.seen.high),
            factor if factor >= FAR else 0.0,
        )

    def to_json(self) -> JsonObject:
        return {"constant": self.constant, "one_sided": self.one_sided, "outlier": self.outlier}
