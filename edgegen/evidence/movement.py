"""Measure how far images move if only the precision changed, relative to how far apart two seeds
are. It needs no reference, needs numpy only and computes in float64.
"""

from __future__ import annotations

import numpy as np

from ..core.verdict import AtMost, Interval
from .distances import Float64, Floats, Moments, frechet
from .intervals import estimate
from .limits import skewed_interval

FEW = 4  # images for each direction
MOST = 128  # directions at most, as many as a reference is projected on


def moved(full: Floats, other: Floats, level: float) -> Interval:
    """Return the mean square that features (n, k) move from `full` to `other`, over the mean square
    between two seeds: 0 for equal images, 1 for those of other seeds.
    """
    steps = np.square(np.asarray(other, np.float64) - full).sum(1)
    spread = _spread(full)
    value = float(steps.mean() / spread.mean())
    return skewed_interval(value, (steps - value * spread) / spread.mean(), level)


def apart(full: Floats, other: Floats, level: float) -> Interval:
    """Return the squared Frechet distance of the two sets of features, over the mean square between
    two seeds.

    It is never more than what images move, and nearly all of that if all move alike. The distance
    of two finite sets is too large, so its upper limit holds more often than it claims.
    """
    a, b = Moments.of(full), Moments.of(other)
    spread = _spread(full)
    value = frechet(a, b) / float(spread.mean())
    # influence of each side with the other held fixed; the same seed moves both
    influence = estimate(a, other).influence + estimate(b, full).influence
    parts = (influence - value * (spread - spread.mean())) / spread.mean()
    return skewed_interval(value, parts - parts.mean(), level)


def from_seed_to_seed(features: Floats) -> float:
    """Return the mean square that features (n, d) move from one seed to another."""
    return float(_spread(features).mean())


def along_main(full: Floats, other: Floats) -> tuple[Float64, Float64]:
    """Return both sets of features (n, d) along the main directions of `full`: one for every FEW of
    its images, at most MOST.

    In more directions, a distance of so few images is mostly bias.
    """
    x = np.asarray(full, np.float64)
    middle = x.mean(0)
    centred = x - middle
    count = max(min(MOST, len(x) // FEW, x.shape[1]), 1)
    # take the smaller of the two matrices that give the same directions
    if len(x) < x.shape[1]:
        rows = np.linalg.eigh(centred @ centred.T)[1][:, -count:]
        vectors = np.linalg.qr(centred.T @ rows)[0]
    else:
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return centred @ vectors, (np.asarray(other, np.float64) - middle) @ vectors


def in_percent(gate: AtMost) -> str:
    """Write such a figure with its limit, for people."""
    figure = gate.figure
    return f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%}) where {gate.limit:.1%} pass"


def _spread(features: Floats) -> np.ndarray:
    """Return each image's share (n,) of the mean square between two seeds."""
    x = np.asarray(features, np.float64)
    out: np.ndarray = 2 * np.square(x - x.mean(0)).sum(1) * len(x) / (len(x) - 1)
    return out
