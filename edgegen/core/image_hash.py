"""Two features that tell whether images show the same picture: a difference hash and a thumbnail.

Both are cheap to compare for thousands of images. (numpy and Pillow)
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .spec import Array

HASH_BITS = 64


def signs(pixels: np.ndarray, margin: int = 0) -> Array:
    """Return the difference hash (Krawetz 2013) of images (n, h, w, 3) uint8, as (n, 64) of ±1.

    A value is 1 if a cell of the 9 x 8 grey version is brighter than its right neighbour by more
    than `margin` levels. With margin 0, noise of one level decides on a flat background.
    """
    cells = np.stack(
        [
            np.asarray(
                Image.fromarray(p).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16
            )
            for p in pixels
        ]
    )
    return np.where(
        cells[:, :, :-1] > cells[:, :, 1:] + margin, np.float32(1), np.float32(-1)
    ).reshape(len(pixels), HASH_BITS)


def differing_bits(a: Array, b: Array) -> Array:
    """Return how many bits differ (n, m) for every pair of hashes a (n, 64) and b (m, 64)."""
    out: Array = np.float32(HASH_BITS / 2) - a @ b.T / np.float32(2)
    return out


def looks(pixels: np.ndarray) -> Array:
    """Return the colours (n, 768) of 16 x 16 thumbnails of images (n, h, w, 3) uint8.

    Each row has mean 0 and length 1, so the product of two rows is their correlation.
    """
    small = np.stack(
        [
            np.asarray(
                Image.fromarray(p).resize((16, 16), Image.Resampling.BOX), np.float32
            ).ravel()
            for p in pixels
        ]
    )
    small -= small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    return small
