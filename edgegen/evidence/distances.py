"""Compute distances between sets of images: Frechet and kernel distance over features, PSNR over
pixels. It needs numpy only and computes in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgegenError

Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Moments:
    """Hold all that a Frechet distance needs of a set of features: mean (d,), covariance (d, d)
    divided by n - 1, and count n.

    `kurtosis` says how much heavier the tails are than a Gaussian's (1: equal), which gives the
    bias of a distance to this set; None for a set that counts as exact.
    """

    mean: Float64
    cov: Float64
    count: int
    kurtosis: float | None = None

    @classmethod
    def of(cls, features: Floats) -> Moments:
        """Compute the moments of features (n, d), n >= 2. Raises EdgegenError if one is
        not finite.
        """
        x = finite(features).astype(np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise EdgegenError(
                "E-DATA-TOO-FEW", f"moments need at least 2 rows of features, got shape {x.shape}"
            )
        mean = x.mean(0)
        centred = x - mean
        return cls(mean, centred.T @ centred / (len(x) - 1), len(x))


def kurtosis(features: Floats) -> float:
    """Return the mean fourth power of the distance of rows (n, d) from their mean, over that of a
    Gaussian with the same covariance.
    """
    moments = Moments.of(features)
    fourth = np.square(np.square(features - moments.mean).sum(1)).mean()
    trace = np.trace(moments.cov)
    return float(fourth / (trace**2 + 2 * np.square(moments.cov).sum()))


def finite(values: Floats) -> Floats:
    """Return the same array. Raises EdgegenError if a value is NaN or infinite, so that no distance
    is ever computed from one.
    """
    if not np.isfinite(values).all():
        raise EdgegenError(
            "E-NONFINITE",
            f"{int((~np.isfinite(values)).sum())} of {values.size} features are NaN or infinite",
        )
    return values


def root(matrix: Float64) -> Float64:
    """Return the square root of a symmetric positive semi-definite matrix; negative eigenvalues
    come from rounding and count as 0.
    """
    values, vectors = np.linalg.eigh(matrix)
    half: Float64 = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return half


def frechet(a: Moments, b: Moments) -> float:
    """Return the squared Frechet distance of two Gaussians, >= 0 (Dowson and Landau 1982; Heusel et
    al. 2017, equation 6).

    |mean difference|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), all roots symmetric. It is not
    corrected for the number of samples: compare only figures of equal counts. Raises EdgegenError
    on NaN, ValueError if the dimensions differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"distances need features of one network, got {len(a.mean)} and {len(b.mean)} "
            "dimensions"
        )
    for part in (a.mean, a.cov, b.mean, b.cov):
        finite(part)
    half = root(a.cov)
    cross = np.linalg.eigvalsh(half @ b.cov @ half).clip(0)
    gap = a.mean - b.mean
    return max(float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * np.sqrt(cross).sum()), 0.0)


def kernel_distance(a: Floats, b: Floats, block: int = 1000) -> float:
    """Return the unbiased squared MMD of features (n, d) and (m, d) under (x.y / d + 1)^3
    (Binkowski et al. 2018); it may be negative.

    It is one estimate over all pairs, not a mean over subsets. `block` rows are taken at a time, so
    memory grows with block x max(n, m). Raises ValueError for sets of different dimensions or with
    fewer than two rows.
    """
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"kernel distance needs two sets (n >= 2, d) of one d, got {a.shape} and {b.shape}"
        )
    x, y = finite(a).astype(np.float64), finite(b).astype(np.float64)

    def total(p: Float64, q: Float64) -> float:
        return sum(
            float(((p[k : k + block] @ q.T / p.shape[1] + 1) ** 3).sum())
            for k in range(0, len(p), block)
        )

    def within(p: Float64) -> float:
        diagonal = ((p * p).sum(1) / p.shape[1] + 1) ** 3
        return (total(p, p) - float(diagonal.sum())) / (len(p) * (len(p) - 1))

    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


def squared_error(a: np.ndarray, b: np.ndarray) -> Float64:
    """Return the mean squared error of each pair, (n,), in units of the full range: differences of
    uint8 images are divided by 255, those of images in [-1, 1] by 2.

    Raises ValueError for images of different shapes or types.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"pairs need images of one shape and type, got {a.dtype} {a.shape} and {b.dtype} "
            f"{b.shape}"
        )
    gap = (a.astype(np.float64) - b.astype(np.float64)) / (255 if a.dtype == np.uint8 else 2)
    error: Float64 = np.square(gap).mean(axis=tuple(range(1, gap.ndim)))
    finite(error)
    return error


def psnr(a: np.ndarray, b: np.ndarray) -> Float64:
    """Return the peak signal-to-noise ratio of each pair, (n,), in dB, for images in uint8 or float
    in [-1, 1]; infinite if they are equal.
    """
    return _decibel(squared_error(a, b))


def _decibel(error: Float64) -> Float64:
    with np.errstate(divide="ignore"):
        out: Float64 = -10 * np.log10(error)
    return out


@dataclass(frozen=True)
class PairedPsnr:
    """Hold two summaries over pairs of images, in dB; infinite if nothing differs."""

    # PSNR of the mean squared error over all pixels of all pairs, in which the worst pairs weigh
    # most
    pooled_db: float
    median_db: float  # median of the pairs' PSNR

    @classmethod
    def of(cls, error: Float64) -> PairedPsnr:
        """Summarize the errors (n,), n >= 1, that squared_error returns."""
        return cls(
            float(_decibel(error.mean(keepdims=True))[0]),
            float(_decibel(np.median(error, keepdims=True))[0]),
        )
