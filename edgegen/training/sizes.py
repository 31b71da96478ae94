"""Of what size and shape photos are, and what fitting them into a square costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Sizes = Mapping[tuple[int, int], int]  # width and height in pixels of upright photos -> how many


def spread(sizes: Sizes) -> dict[str, dict[str, float]]:
    """Least, median and largest width, height and ratio of width to height; {} of no photos."""
    if not sizes:
        return {}
    wide, high = _sides(sizes)
    return {
        name: {"min": float(of.min()), "median": float(np.median(of)), "max": float(of.max())}
        for name, of in (("width", wide), ("height", high), ("ratio", wide / high))
    }


def shapes(sizes: Sizes) -> dict[str, float]:
    """How many are wide, square and tall, and what a square costs those that are not, on average
    and at most.

    The cost is the share of the square that padding fills, which is the share of the photo that a
    crop takes away.
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
    """How many have fewer pixels a side than the square that is made of them."""
    wide, high = _sides(sizes)
    side = np.minimum(wide, high) if fit == "crop" else np.maximum(wide, high)
    return int((side < size).sum())


def _sides(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Width and height of each photo, (n,) float64."""
    every = np.repeat(
        np.array(list(sizes), np.float64).reshape(-1, 2), list(sizes.values()), axis=0
    )
    return every[:, 0], every[:, 1]
