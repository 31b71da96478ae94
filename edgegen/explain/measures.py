"""What is not true by construction: how few components do, where they draw, and whether they recur
(docs/methods/regional-primitives.md, B.2.5), with chance levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .lattice import Floats, Sets, meets

VISIBLE = 0.05  # of the strongest component: weaker ones are not counted
PEAK = 2.0  # of images in [-1, 1]


def strengths(vectors: Floats) -> Floats:
    """Euclidean norm of each component (m, K) -> (m,)."""
    return np.sqrt(np.square(vectors.reshape(len(vectors), -1), dtype=np.float64).sum(1))


def strongest(strength: Floats, count: int) -> Sets:
    """Places of the `count` strongest, strongest first; of equals the first."""
    return np.argsort(-strength, kind="stable")[:count].astype(np.int64)


def compact(rows: Floats) -> Floats:
    """(m, K) -> (m, min(m, K)) in float64, norms of all sums of rows kept: what errors are measured
    on.
    """
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    if rows.shape[1] <= len(rows):
        return rows
    triangle: Floats = np.linalg.qr(rows.T)[1]
    return triangle.T


def additivity_error(sets: Sets, vectors: Floats, demanded: Sets, u: Floats) -> float:
    """mean over T of |sum of components that meet T - u(T)|, over mean |u(T)|: 0 exact, 1 no better
    than nothing.
    """
    scale = strengths(u).mean()
    return float(strengths(meets(demanded, sets) @ vectors - u).mean() / scale) if scale else 0.0


def needed(sets: Sets, vectors: Floats, demanded: Sets, u: Floats, error: float) -> int:
    """The fewest strongest components with at most this additivity error, by bisection."""
    order = strongest(strengths(vectors), len(sets))
    low, high = 0, len(sets)
    while low < high:
        k = (low + high) // 2
        kept = order[:k]
        if additivity_error(sets[kept], vectors[kept], demanded, u) <= error:
            high = k
        else:
            low = k + 1
    return low


def visible(strength: Floats) -> int:
    """Components with more than 5 % of the strongest one's strength."""
    return (
        int((strength > VISIBLE * strength.max()).sum())
        if len(strength) and strength.max() > 0
        else 0
    )


def inside_share(change: Floats, mask: ArrayLike) -> float:
    """Share of the energy of a change of the image (c, h, w) that lies inside the mask (h, w); NaN
    for no change at all.
    """
    energy = np.square(change, dtype=np.float64).sum(0)
    total = energy.sum()
    return float(energy[np.asarray(mask, bool)].sum() / total) if total else float("nan")


def action_field(change: Floats, masks: np.ndarray, share: float = 0.1) -> int:
    """The regions that a change (c, h, w) reaches: mean |change| above `share` of the most changed
    region's; masks (n, h, w).
    """
    size = np.abs(change, dtype=np.float64).mean(0)
    means = np.array([size[mask.astype(bool)].mean() for mask in masks])
    return (
        sum(1 << j for j, mean in enumerate(means) if mean > share * means.max())
        if means.max() > 0
        else 0
    )


def overlap(a: int, b: int) -> float:
    """Intersection over union of two sets of regions; 1 for two empty ones."""
    return (a & b).bit_count() / (a | b).bit_count() if a | b else 1.0


def cosine(a: Floats, b: Floats) -> float:
    """Of two changes of an image; NaN if either is none."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a.astype(np.float64) * b).sum() / norm) if norm else float("nan")


def psnr(a: Floats, b: Floats, mask: ArrayLike | None = None) -> float:
    """In dB, of images in [-1, 1] (c, h, w), inside the mask (h, w) if there is one; infinite for
    equal ones.
    """
    square = np.square(a.astype(np.float64) - b)
    mse = square.mean() if mask is None else square[:, np.asarray(mask, bool)].mean()
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else float("inf")


def transfer(a: Sequence[int], b: Sequence[int], wanted: int, among: int) -> float:
    """Share of the `wanted` strongest sets of a (strongest first) that are in the `among` strongest
    of b.
    """
    first = set(a[:wanted])
    return len(first & set(b[:among])) / len(first) if first else float("nan")


def chance(among: int, regions: int) -> float:
    """What `transfer` gives for sets drawn at random."""
    return min(1.0, among / (2**regions - 1))
