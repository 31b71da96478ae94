"""Find the pairs that anybody can tell apart at a glance: an image of another thing, or a part that
is gone. It needs numpy only.

A mean over all pairs hides them. A pair counts as ruined below a PSNR, or if the structure of one
region is lost, whatever the rest looks like: the worst region's structural similarity (Wang et al.
2004) over windows that fit images of 32 pixels. docs/statistics.md shows the labelled pairs that
the two thresholds were set on.
"""

from __future__ import annotations

import numpy as np

from .distances import Float64, squared_error

RUINED_DB = 25.0  # PSNR of a pair below which it is ruined
RUINED_SIMILARITY = 0.6  # similarity of the worst region below which the pair is ruined
WINDOW = 7  # pixels a side over which one similarity is computed
REGION = 8  # pixels a side whose mean similarity is that of one region
SIDE = 64  # pixels; larger images are averaged down to about that, as an eye sees them
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# C1 and C2 of the paper, but larger: 2 levels of 255 on the even ground of small images are no
# damage
STABLE = ((0.1 * 255) ** 2, (0.06 * 255) ** 2)


def ruined(full: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which of the pairs (n, h, w, 3) uint8 are ruined, (n,) bool."""
    bad = squared_error(full, other) > 10 ** (-RUINED_DB / 10)
    # images that hardly differ have no lost region, and most pairs hardly differ
    unsure = np.flatnonzero(~bad & (np.abs(full.astype(np.int16) - other).max((1, 2, 3)) > 8))
    bad[unsure] = worst_region(full[unsure], other[unsure]) < RUINED_SIMILARITY
    return bad


def worst_region(full: np.ndarray, other: np.ndarray) -> Float64:
    """Return the similarity of the least similar region of each pair (n, h, w, 3) uint8: (n,), 1
    for equal images.
    """
    x, y = (_luma(images) for images in (full, other))
    side = min(WINDOW, *x.shape[1:])

    def mean(values: np.ndarray) -> np.ndarray:
        return _box(values, side)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = STABLE
    map_ = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    region = _box(map_, min(REGION, *map_.shape[1:]))
    worst: Float64 = region.min((1, 2)).astype(np.float64)
    return worst


def _luma(images: np.ndarray) -> np.ndarray:
    """Convert (n, h, w, 3) to luma (n, h', w') float64, averaged down if the images are large."""
    grey = images.astype(np.float32) @ LUMA
    factor = max(1, min(grey.shape[1:]) // SIDE)
    n, h, w = grey.shape
    grey = grey[:, : h // factor * factor, : w // factor * factor]
    out: np.ndarray = (
        grey.reshape(n, h // factor, factor, w // factor, factor).mean((2, 4)).astype(np.float64)
    )
    return out


def _box(values: np.ndarray, side: int) -> np.ndarray:
    """Return the means of all windows of side x side, (n, h, w) -> (n, h - side + 1, w -
    side + 1).
    """
    sums = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    total = (
        sums[:, side:, side:]
        - sums[:, :-side, side:]
        - sums[:, side:, :-side]
        + sums[:, :-side, :-side]
    )
    out: np.ndarray = total / side**2
    return out
