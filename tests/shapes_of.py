"""Product photos in miniature: coloured shapes on white, and features of them that no network is
needed for.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from edgegen.evidence.memory import Images

MIX = np.random.default_rng(7).normal(size=(192, 96)).astype(np.float32)


def shapes(count: int, seed: int, size: int = 32) -> np.ndarray:
    """(count, size, size, 3) uint8: one to three ellipses and boxes each."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        image = Image.new("RGB", (size, size), "white")
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(1, 4)):
            corner, extent = rng.integers(2, size // 2, 2), rng.integers(size // 5, size // 2, 2)
            color = tuple(int(v) for v in rng.integers(0, 220, 3))
            place = [
                int(corner[0]),
                int(corner[1]),
                int(corner[0] + extent[0]),
                int(corner[1] + extent[1]),
            ]
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(place, fill=color)
        out.append(np.asarray(image))
    return np.stack(out)


def features(pixels: np.ndarray) -> np.ndarray:
    """(n, 96) float32, none below 0, as pooled features of a network are."""
    small = np.stack(
        [
            np.asarray(Image.fromarray(p).resize((8, 8), Image.Resampling.BOX), np.float32).ravel()
            for p in pixels
        ]
    )
    return np.maximum((1 - small / 255) @ MIX, 0)


def images(pixels: np.ndarray) -> Images:
    return Images(pixels, features(pixels))


def noisy(pixels: np.ndarray, levels: float, seed: int = 0) -> np.ndarray:
    """As a generator gives back what it has learnt by heart: nearly."""
    rows = pixels + levels * np.random.default_rng(seed).normal(size=pixels.shape)
    return np.rint(rows).clip(0, 255).astype(np.uint8)
