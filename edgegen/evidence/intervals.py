"""Estimate how sure a Frechet distance is, and how sure its change is between two pipelines with
the same seeds. It needs numpy only and computes in float64.

It is the infinitesimal jackknife (Efron 1982): the first-order influence of every image on the
distance is known in closed form, so the variance is a mean of squares, and pairing is a subtraction
row by row. The second-order term gives the bias of few samples, which is subtracted. There is no
resampling, so no seed and no Monte-Carlo error; docs/statistics.md compares it with the bootstrap.
Intervals are about the generators, given this reference: the bias from its own number of images is
subtracted, but they are not wider because other photos would have given another distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..core.verdict import Interval
from ..errors import EdgegenError
from .distances import Float64, Floats, Moments, finite, root
from .limits import skewed_interval, standard_error

FLOOR = 1e-15  # eigenvalues below this fraction of the scale are rounding errors


@dataclass(frozen=True, eq=False)
class Estimate:
    """Hold a squared Frechet distance to a reference, corrected for the number of samples, and each
    image's influence on it, (n,).
    """

    value: float
    influence: Float64

    @property
    def error(self) -> float:
        """Return the standard error of the distance."""
        return standard_error(self.influence)

    def interval(self, level: float = 0.95) -> Interval:
        """Return the interval of the distance."""
        return _around(self.value, self.error, level)


def estimate(reference: Moments, features: Floats) -> Estimate:
    """Estimate the distance of features (n, k), n > k, projected as the reference is.

    S = R^1/2 C R^1/2 = U diag(s) U', C the covariance of the features, R of the reference; c a
    centred row, z = U' R^1/2 c: influence of c: 2 c.(mean gap) + |c|^2 - sum z_i^2 / sqrt(s_i),
    less its mean; bias: (tr C + sum_ij var(z_i z_j) / (2 sqrt(s_i s_j) (sqrt(s_i) + sqrt(s_j)))) /
    n.

    Raises EdgegenError on NaN or too few rows.
    """
    n, k = features.shape
    if n <= k:
        raise EdgegenError(
            "E-DATA-TOO-FEW", f"a distance over {k} features needs more than {k} images, got {n}"
        )
    finite(reference.cov)
    own = Moments.of(features)
    c, gap, half = (
        features.astype(np.float64) - own.mean,
        own.mean - reference.mean,
        root(reference.cov),
    )
    s, u = np.linalg.eigh(half @ own.cov @ half)
    # keep images that are all alike from dividing 0 by 0
    s = s.clip(FLOOR * max(s[-1], float(np.square(reference.cov).sum())))
    z2, roots = np.square(c @ half @ u), np.sqrt(s)
    value = gap @ gap + np.trace(own.cov) + np.trace(reference.cov) - 2 * roots.sum()
    spread = z2.T @ z2 / n - np.diag(s * s)
    bias = (
        np.trace(own.cov)
        + (spread / (2 * np.outer(roots, roots) * np.add.outer(roots, roots))).sum()
    ) / n
    if reference.kurtosis is not None:
        bias += _reference_bias(reference, roots)
    influence = 2 * c @ gap + np.square(c).sum(1) - z2 @ (1 / roots)
    return Estimate(float(value - bias), influence - influence.mean())


def _reference_bias(reference: Moments, roots: Float64) -> float:
    """Return what the reference's own number of images adds to a distance.

    It is the same second-order term for an elliptical set of its kurtosis (fourth moments s_i s_j
    times it, three times on the diagonal); `roots` are those of the eigenvalues s.
    """
    heavy = float(reference.kurtosis or 1)
    spread = heavy * np.ones((len(roots), len(roots))) + (2 * heavy - 1) * np.eye(len(roots))
    terms = spread * np.outer(roots, roots) / (2 * np.add.outer(roots, roots))
    return float((np.trace(reference.cov) + terms.sum()) / reference.count)


def distance_interval(reference: Moments, features: Floats, level: float = 0.95) -> Interval:
    """Return the squared Frechet distance of features (n, k) to the reference, corrected for the
    number of samples, with its interval.
    """
    return estimate(reference, features).interval(level)


def distance_change(full: Estimate, other: Estimate, level: float = 0.95) -> Interval:
    """Return the interval of (other - full) / full, a signed fraction; row k of both estimates must
    come from the same seed.

    Raises EdgegenError if the distance of `full` cannot be distinguished from zero, because a
    fraction of it then means nothing, and ValueError for unequal counts.
    """
    if len(full.influence) != len(other.influence):
        raise ValueError(
            f"a paired change needs equal counts, got {len(full.influence)} and "
            f"{len(other.influence)}"
        )
    if not full.value > 4 * full.error:
        raise EdgegenError(
            "E-FID-SCALE",
            f"the full-precision distance {full.value:.3g} +- {full.error:.2g} is too near zero "
            f"for a relative change over {len(full.influence)} images",
            hint="use more images",
        )
    ratio = other.value / full.value
    return skewed_interval(
        ratio - 1, (other.influence - ratio * full.influence) / full.value, level
    )


def _around(value: float, error: float, level: float) -> Interval:
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(value, value - reach, value + reach)
