"""Measure precision and recall of a set of generated images: how many lie among the real ones, and
how many real ones they reach. It needs numpy only.

After Kynkaanniemi et al. 2019 (Improved Precision and Recall), a set's manifold is the union of
balls around its features, each as large as the distance to its k-th neighbour in the same set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .distances import Float64, Floats, finite


@dataclass(frozen=True)
class PrecisionRecall:
    """Hold shares in [0, 1]; two halves of one set give about the same for both, which is
    below 1.
    """

    precision: float  # share of generated images inside the real manifold
    recall: float  # share of real images inside the generated manifold
    neighbours: int


def precision_recall(
    real: Floats, generated: Floats, neighbours: int = 3, block: int = 500
) -> PrecisionRecall:
    """Compare features (n, d) of real and generated images, of equal n because the balls shrink as
    sets grow.

    Memory is block x n. Raises ValueError for sets of different shapes or with at most `neighbours`
    rows, EdgegenError on NaN.
    """
    if real.shape != generated.shape or real.ndim != 2 or not 1 <= neighbours < len(real):
        raise ValueError(
            f"precision and recall need two sets (n, d) of one shape with n above {neighbours} "
            "neighbours, "
            f"got {real.shape} and {generated.shape}"
        )
    a, b = (finite(part).astype(np.float64) for part in (real, generated))
    return PrecisionRecall(
        _covered(b, a, neighbours, block), _covered(a, b, neighbours, block), neighbours
    )


def _covered(points: Float64, manifold: Float64, neighbours: int, block: int) -> float:
    """Return the share of `points` that lie in at least one ball of `manifold`."""
    radii = np.empty(len(manifold))
    for k in range(0, len(manifold), block):
        ordered = np.partition(_squares(manifold[k : k + block], manifold), neighbours, axis=1)
        radii[k : k + block] = ordered[:, neighbours]  # the 0th neighbour is the point itself
    inside = 0
    for k in range(0, len(points), block):
        inside += int((_squares(points[k : k + block], manifold) <= radii).any(axis=1).sum())
    return inside / len(points)


def _squares(x: Float64, y: Float64) -> Float64:
    """Return squared Euclidean distances (n, m); those that rounding makes negative count as 0."""
    out: Float64 = ((x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T).clip(0)
    return out
