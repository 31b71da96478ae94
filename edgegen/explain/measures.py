"""Measures of what is not true by construction: how few components suffice, where they draw, and
whether they recur (docs/methods/regional-primitives.md, B.2.5), with chance levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .lattice import Floats, Sets, meets

VISIBLE = 0.05  # share of the strongest component's strength below which others do not count
PEAK = 2.0  # range of images in [-1, 1]


def strengths(vectors: Floats) -> Floats:
    """Return the Euclidean norm of each component, (m, K) -> (m,)."""
    return np.sqrt(np.square(vectors.reshape(len(vectors), -1), dtype=np.float64).sum(1))


def strongest(strength: Floats, count: int) -> Sets:
    """Return the indices of the `count` strongest, strongest first; equal ones in their order."""
    return np.argsort(-strength, kind="stable")[:count].astype(np.int64)


def compact(rows: Floats) -> Floats:
    """Return rows (m, K) in float64 coordinates (m, min(m, K)) that keep the norms of all linear
    combinations, so that errors can be measured on them.
    """
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    if rows.shape[1] <= len(rows):
        return rows
    triangle: Floats = np.linalg.qr(rows.T)[1]
    return triangle.T


def additivity_error(sets: Sets, vectors: Floats, demanded: Sets, u: Floats) -> float:
    """Return the mean over T of |sum of components that meet T - u(T)|, divided by mean |u(T)|.

    It is 0 for an exact sum, and 1 for one that is no better than no components.
    """
    scale = strengths(u).mean()
    return float(strengths(meets(demanded, sets) @ vectors - u).mean() / scale) if scale else 0.0


def needed(sets: Sets, vectors: Floats, demanded: Sets, u: Floats, error: float) -> int:
    """Return how many of the strongest components give at most this error, by bisection."""
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
    """Return the number of components with more than 5 % of the strongest one's strength."""
    return (
        int((strength > VISIBLE * strength.max()).sum())
        if len(strength) and strength.max() > 0
        else 0
    )


def inside_share(change: Floats, mask: ArrayLike) -> float:
    """Return the share of the energy of an image change (c, h, w) inside the mask (h, w); NaN if
    there is no change.
    """
    energy = np.square(change, dtype=np.float64).sum(0)
    total = energy.sum()
    return float(energy[np.asarray(mask, bool)].sum() / total) if total else float("nan")


def action_field(change: Floats, masks: np.ndarray, share: float = 0.1) -> int:
    """Return the set of regions in which the mean |change| of a change (c, h, w) exceeds `share` of
    the most changed region's; masks (n, h, w).
    """
    size = np.abs(change, dtype=np.float64).mean(0)
    means = np.array([size[mask.astype(bool)].mean() for mask in masks])
    return (
        sum(1 << j for j, mean in enumerate(means) if mean > share * means.max())
        if means.max() > 0
        else 0
    )


def overlap(a: int, b: int) -> float:
    """Return intersection over union of two sets of regions; 1 for two empty ones."""
    return (a & b).bit_count() / (a | b).bit_count() if a | b else 1.0


def cosine(a: Floats, b: Floats) -> float:
    """Return the cosine between two changes of an image; NaN if one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a.astype(np.float64) * b).sum() / norm) if norm else float("nan")


def psnr(a: Floats, b: Floats, mask: ArrayLike | None = None) -> float:
    """Return the PSNR in dB of images (c, h, w) in [-1, 1], inside the mask (h, w) if given;
    infinite for equal images.
    """
    square = np.square(a.astype(np.float64) - b)
    mse = square.mean() if mask is None else square[:, np.asarray(mask, bool)].mean()
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else float("inf")


def transfer(a: Sequence[int], b: Sequence[int], wanted: int, among: int) -> float:
    """Return the share of the `wanted` strongest sets of a that are among the `among` strongest of
    b; both begin with the strongest.
    """
    first = set(a[:wanted])
    return len(first & set(b[:among])) / len(first) if first else float("nan")


def chance(among: int, regions: int) -> float:
    """Return the expected `transfer` for sets drawn at random."""
    return min(1.0, among / (2**regions - 1))
