"""Compute limits of a mean whose parts are skewed, as rare damage makes them. It needs
numpy only.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from ..core.verdict import Interval
from .distances import Float64

STRAIGHT = 1e-6  # skewness over the root of the number, below which the normal limits are used


def standard_error(parts: Float64) -> float:
    """Return the standard error of the mean of these parts about zero, (n,), n >= 2."""
    return math.sqrt(float(parts @ parts) / (len(parts) - 1) / len(parts))


def skewed_interval(value: float, parts: Float64, level: float = 0.95) -> Interval:
    """Return the interval of `value`, whose error is the mean of `parts` (n,), which sum
    to zero.

    Limits are those of Hall (1992), equation 2.3: a cubic takes the skewness out of the studentized
    mean, and is inverted at the normal quantiles. With damage in a few images of hundreds, the
    normal limit is too low on the side where the damage lies (docs/statistics.md).
    """
    error = standard_error(parts)
    reach = NormalDist().inv_cdf((1 + level) / 2)
    if not error > 0:
        return Interval(value, value - reach * error, value + reach * error)
    # skewness of the studentized mean
    skew = float((parts**3).mean()) / float((parts**2).mean()) ** 1.5 / math.sqrt(len(parts))
    return Interval(
        value, value - error * _studentized(reach, skew), value - error * _studentized(-reach, skew)
    )


def _studentized(normal: float, skew: float) -> float:
    """Return the value that the studentized mean is below as often as a normal variable is below
    `normal`.
    """
    if abs(skew) < STRAIGHT:
        return normal
    return 3 / skew * (math.cbrt(1 + skew * (normal - skew / 6)) - 1)
