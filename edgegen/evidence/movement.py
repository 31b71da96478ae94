"""How far images move where nothing but the precision changed, measured against how far apart two
seeds are: needs no reference. (numpy only, float64)
"""

from __future__ import annotations

import numpy as np

from ..core.verdict import AtMost, Interval
from .distances import Float64, Floats, Moments, frechet
from .intervals import estimate
from .limits import skewed_interval

FEW = 4  # images a direction
MOST = 128  # directions, as many as a reference is projected on


def moved(full: Floats, other: Floats, level: float) -> Interval:
    """Mean square that features (n, k) move from `full` to `other`, over the mean square from one
    seed to another: 0 for equal images, 1 for those of other seeds.
    """
    steps = np.square(np.asarray(other, np.float64) - full).sum(1)
    spread = _spread(full)
    value = float(steps.mean() / spread.mean())
    return skewed_interval(value, (steps - value * spread) / spread.mean(), level)


def apart(full: Floats, other: Floats, level: float) -> Interval:
    """Squared Frechet distance of the two sets of features, over the mean square from one seed to
    another.

    It is never more than what images move, and nearly all of that where all move alike. The
    distance of two finite sets is too large, so its upper limit is held more often than said.
    """
    a, b = Moments.of(full), Moments.of(other)
    spread = _spread(full)
    value = frechet(a, b) / float(spread.mean())
    # each side's influence, the other one as it is; the same seed moves both
    influence = estimate(a, other).influence + estimate(b, full).influence
    parts = (influence - value * (spread - spread.mean())) / spread.mean()
    return skewed_interval(value, parts - parts.mean(), level)


def from_seed_to_seed(features: Floats) -> float:
    """Mean square that features (n, d) move from one seed to another."""
    return float(_spread(features).mean())


def along_main(full: Floats, other: Floats) -> tuple[Float64, Float64]:
    """Both sets of features (n, d) along the main directions of `full`, one for every FEW of its
    images and MOST at most: in more, a distance of so few images is mostly bias.
    """
    x = np.asarray(full, np.float64)
    middle = x.mean(0)
    centred = x - middle
    count = max(min(MOST, len(x) // FEW, x.shape[1]), 1)
    # of the smaller of the two matrices that have the same directions
    if len(x) < x.shape[1]:
        rows = np.linalg.eigh(centred @ centred.T)[1][:, -count:]
        vectors = np.linalg.qr(centred.T @ rows)[0]
    else:
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return centred @ vectors, (np.asarray(other, np.float64) - middle) @ vectors


def in_percent(gate: AtMost) -> str:
    """A figure of these with its limit, for people."""
    figure = gate.figure
    return f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%}) where {gate.limit:.1%} pass"


def _spread(features: Floats) -> np.ndarray:
    """Of each image (n,): its share of the mean square from one seed to another."""
    x = np.asarray(features, np.float64)
    out: np.ndarray = 2 * np.square(x - x.mean(0)).sum(1) * len(x) / (len(x) - 1)
    return out
