"""Statistics of the sizes and shapes of photos, and of the cost of fitting them into a square."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Sizes = Mapping[tuple[int, int], int]  # number of photos by upright width and height in pixels


def spread(sizes: Sizes) -> dict[str, dict[str, float]]:
    """Return least, median and largest width, height and width / height; {} without photos."""
    if not sizes:
        return {}
    wide, high = _sides(sizes)
    return {
        name: {"min": float(of.min()), "median": float(np.median(of)), "max": float(of.max())}
        for name, of in (("width", wide), ("height", high), ("ratio", wide / high))
    }


def shapes(sizes: Sizes) -> dict[str, float]:
    """Return how many photos are wide, square and tall, and the mean and largest cost of fitting
    those that are not square.

    The cost is the share of the square that padding fills, which equals the share of the photo that
    a crop removes.
    """
    wide, high = _sides(sizes)
    lost = 1 - np.minimum(wide, high) / np.maximum(wide, high)
    uneven = lost[lost > 0] if lost.any() else np.zeros(1)
    return {
        "wide": int((wide > high).sum()),
        "square": int((wide == high).sum()),
        "tall": int((wide < high).sum()),
        "mean_cost": float(uneven.mean()),
        "max_cost": float(uneven.max()),
    }


def smaller(sizes: Sizes, size: int, fit: str) -> int:
    """Return how many photos have fewer pixels a side than the square of `size` made from them."""
    wide, high = _sides(sizes)
    side = np.minimum(wide, high) if fit == "crop" else np.maximum(wide, high)
    return int((side < size).sum())


def _sides(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Return the width and the height of each photo, (n,) float64."""
    every = np.repeat(
        np.array(list(sizes), np.float64).reshape(-1, 2), list(sizes.values()), axis=0
    )
    return every[:, 0], every[:, 1]
