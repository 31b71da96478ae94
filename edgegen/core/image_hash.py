"""Are two images the same picture? A difference hash and a small look, both cheap to compare by the
thousand. (numpy only)
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .spec import Array

HASH_BITS = 64


def signs(pixels: np.ndarray, margin: int = 0) -> Array:
    """dHash of (n, h, w, 3) uint8 as -1 or 1, (n, 64): is a cell of a 9 x 8 grey version brighter
    than its right neighbour?

    By more than `margin` levels; where a product photo's background is flat, 0 lets noise of one
    level decide (Krawetz 2013).
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
    """Of every pair of hashes (n, 64) and (m, 64): (n, m)."""
    out: Array = np.float32(HASH_BITS / 2) - a @ b.T / np.float32(2)
    return out


def looks(pixels: np.ndarray) -> Array:
    """(n, 768) colours of a 16 x 16 version, mean 0 and length 1: the product of two is their
    correlation.
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
