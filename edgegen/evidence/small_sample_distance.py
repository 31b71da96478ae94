"""Measure how far generated images are from a few held-out photos (20 to 200), with intervals that
hold at such numbers. It needs numpy only and computes in float64.

Both sets are samples here: the interval covers other seeds and other photos of the same kind. Each
image's influence on the distance is known in closed form (the jackknife), so two looks at one
training, made from the same seeds and judged by the same photos, are compared image by image.
Degrees of freedom follow Welch and Satterthwaite: the fewer photos, the wider. docs/statistics.md
has the measured coverage, and what does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..core.files import JsonObject
from ..core.verdict import Interval
from ..errors import EdgegenError, InputError
from .distances import Float64, Floats, Moments, finite
from .distances import frechet as plain_frechet
from .intervals import estimate

LEAST = 8  # least number of photos or samples; with fewer an interval says nothing
PER_DIRECTION = 4  # held-out photos for each direction of the Frechet distance


@dataclass(frozen=True, eq=False)
class Distance:
    """Hold the squared distance of generated images to held-out photos; it is unbiased or nearly
    so, and may be negative.

    `made` (n,) and `held_out` (m,) say how much each image and each photo adds to it, less the
    mean. Raises EdgegenError on NaN.
    """

    value: float
    made: Float64
    held_out: Float64

    def __post_init__(self) -> None:
        for part in (np.asarray(self.value), self.made, self.held_out):
            finite(part)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the interval of the distance."""
        return _around(self.value, self.made, self.held_out, level)

    def to_json(self) -> JsonObject:
        return {"value": self.value, "made": self.made.tolist(), "held_out": self.held_out.tolist()}

    @classmethod
    def from_json(cls, data: JsonObject) -> Distance:
        """Read a distance. Raises KeyError, TypeError, ValueError or EdgegenError for anything
        else.
        """
        made, held_out = (np.array(data[name], np.float64) for name in ("made", "held_out"))
        if made.ndim != 1 or held_out.ndim != 1 or min(len(made), len(held_out)) < LEAST:
            raise ValueError(
                f"a distance has influences of shapes {made.shape} and {held_out.shape}"
            )
        return cls(float(data["value"]), made, held_out)


def kernel(generated: Floats, held_out: Floats) -> Distance:
    """Return the KID: squared MMD of features (n, d) and (m, d) under (x.y / d + 1)^3 (Binkowski et
    al. 2018), over all pairs, unbiased.

    Raises InputError for fewer than LEAST rows, EdgegenError on NaN. Memory is (n + m)^2 numbers.
    """
    x, y = _checked(generated, held_out)
    n, m, d = len(x), len(y), x.shape[1]
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)
    rows, columns = xx.sum(1) / (n - 1), yy.sum(1) / (m - 1)
    value = rows.mean() + columns.mean() - 2 * xy.mean()
    return Distance(
        float(value), _centred(2 * (rows - xy.mean(1))), _centred(2 * (columns - xy.mean(0)))
    )


@dataclass(frozen=True, eq=False)
class Directions:
    """Project features for a Frechet distance on orthogonal directions (d, k) about a
    centre (d,).
    """

    centre: Float64
    axes: Float64

    def __call__(self, features: Floats) -> Float64:
        """Project features (n, d) to (n, k)."""
        out: Float64 = (features.astype(np.float64) - self.centre) @ self.axes
        return out


def directions(train: Floats, count: int) -> Directions:
    """Return the main directions of the training photos' features (n, d), one for every
    PER_DIRECTION of `count` images.

    `count` is the size of the smaller of the two sets that will be compared, usually the held-out
    photos. Directions are never those of the held-out photos themselves: chosen for these, they
    would make every generator look worse. Raises InputError for too few training photos.
    """
    x = finite(train).astype(np.float64)
    k = count // PER_DIRECTION
    if x.ndim != 2 or not 0 < k < min(x.shape):
        raise InputError(
            "E-DATA-TOO-FEW",
            f"{k} directions for {count} photos need as many training photos and one more, "
            f"got features {x.shape}",
        )
    centre = x.mean(0)
    return Directions(
        centre, np.ascontiguousarray(np.linalg.svd(x - centre, full_matrices=False)[2][:k].T)
    )


def frechet(generated: Floats, held_out: Floats, along: Directions) -> Distance:
    """Return the squared Frechet distance of features (n, d) and (m, d) along few directions,
    corrected for the numbers of both.

    To the order that is kept, the bias and the variance of two samples are sums of what each has
    against the other taken as exact. Raises InputError for fewer than LEAST rows.
    """
    x, y = (along(part) for part in _checked(generated, held_out))
    a, b = Moments.of(x), Moments.of(y)
    left, right = estimate(b, x), estimate(a, y)
    return Distance(left.value + right.value - plain_frechet(a, b), left.influence, right.influence)


def change(before: Distance, after: Distance, level: float = 0.95) -> Interval:
    """Return the interval of after - before, in units of the distance; both come from the same
    seeds in the same order, against the same photos.
    """
    _same(before, after)
    return _around(
        after.value - before.value,
        after.made - before.made,
        after.held_out - before.held_out,
        level,
    )


def ratio(before: Distance, after: Distance, level: float = 0.95) -> Interval:
    """Return the interval of after / before, paired like `change`, after Fieller 1954 because
    `before` is uncertain too.

    Raises EdgegenError if `before` cannot be distinguished from zero at `level`, because the ratio
    may then be anything.
    """
    _same(before, after)
    share = after.value / before.value if before.value > 0 else 0.0
    rest = [
        theirs - share * ours
        for ours, theirs in ((before.made, after.made), (before.held_out, after.held_out))
    ]
    reach = student(level, _freedom(*rest)) ** 2
    own, both, other = (
        reach * _covariance(a, b) for a, b in ((before, before), (before, after), (after, after))
    )
    # every r with (after - r before)^2 <= reach x its variance solves a r^2 - 2 b r + c <= 0
    a, b, c = before.value**2 - own, before.value * after.value - both, after.value**2 - other
    if not (a > 0 and before.value > 0):
        sigma = _covariance(before, before) ** 0.5
        raise EdgegenError(
            "E-FID-SCALE",
            f"the distance {before.value:.3g} +- {sigma:.2g} is too near zero to be divided by",
            hint="use more images, or hold out more photos",
        )
    half = float(np.sqrt(max(b * b - a * c, 0)))
    return Interval(share, (b - half) / a, (b + half) / a)


def _checked(generated: Floats, held_out: Floats) -> tuple[Float64, Float64]:
    if generated.ndim != 2 or held_out.ndim != 2 or generated.shape[1] != held_out.shape[1]:
        raise ValueError(
            f"distances need features of one network, got {generated.shape} and {held_out.shape}"
        )
    if min(len(generated), len(held_out)) < LEAST:
        raise InputError(
            "E-DATA-TOO-FEW",
            f"a distance with an interval needs at least {LEAST} generated images and as many "
            f"held-out photos, got {len(generated)} and {len(held_out)}",
            hint="hold out more photos",
        )
    return finite(generated).astype(np.float64), finite(held_out).astype(np.float64)


def _same(before: Distance, after: Distance) -> None:
    if (before.made.shape, before.held_out.shape) != (after.made.shape, after.held_out.shape):
        raise ValueError(
            f"paired distances need the same seeds and photos, got {len(before.made)} and "
            f"{len(after.made)} images, "
            f"{len(before.held_out)} and {len(after.held_out)} photos"
        )


def _centred(values: Float64) -> Float64:
    out: Float64 = values - values.mean()
    return out


def _product(a: Float64, b: Float64) -> float:
    """Return the covariance of the means of two influences."""
    return float((a * b).sum() / (len(a) - 1) / len(a))


def _covariance(a: Distance, b: Distance) -> float:
    return _product(a.made, b.made) + _product(a.held_out, b.held_out)


def _freedom(generated: Float64, held_out: Float64) -> float:
    """Return the degrees of freedom of a sum of two estimated variances (Welch, Satterthwaite);
    infinite if nothing varies.
    """
    a, b = _product(generated, generated), _product(held_out, held_out)
    return (
        (a + b) ** 2 / (a * a / (len(generated) - 1) + b * b / (len(held_out) - 1))
        if a + b > 0
        else np.inf
    )


def _around(value: float, generated: Float64, held_out: Float64, level: float) -> Interval:
    error = float(np.sqrt(_product(generated, generated) + _product(held_out, held_out)))
    reach = student(level, _freedom(generated, held_out)) * error
    return Interval(value, value - reach, value + reach)


def student(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t, to 0.1 % from 7 degrees of freedom up at 95 %
    (Abramowitz and Stegun 26.7.5).
    """
    z, v = NormalDist().inv_cdf((1 + level) / 2), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
