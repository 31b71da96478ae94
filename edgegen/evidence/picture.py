"""Draw the same seeds side by side: FP32, INT8 and their difference, one band for each runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .judge import WorstPair

GAIN = 8  # factor of the difference: a damage of one level in 32 becomes grey
SCALE, GAP, HEAD = 2, 12, 16


def side_by_side(
    full: np.ndarray, others: Mapping[str, np.ndarray], columns: int = 5
) -> np.ndarray:
    """Draw one picture of full and each of others (n, h, w, 3) uint8, from the same seeds: a band
    for each of others.
    """
    bands = []
    for name, images in others.items():
        difference = np.clip(np.abs(full.astype(np.int16) - images) * GAIN, 0, 255).astype(np.uint8)
        titles = ("FP32", f"INT8 {name}", f"difference x {GAIN}")
        blocks = [
            _titled(_tiled(block, columns), title)
            for block, title in zip((full, images, difference), titles, strict=True)
        ]
        space = np.full((blocks[0].shape[0], GAP, 3), 255, np.uint8)
        bands.append(np.concatenate([blocks[0], space, blocks[1], space, blocks[2]], axis=1))
    return np.concatenate(bands, axis=0)


def worst_pairs(found: Mapping[str, Sequence[WorstPair]]) -> np.ndarray:
    """Draw one picture with the worst pairs of each runtime: full precision, INT8 and their
    difference.
    """
    bands = []
    for name, pairs in found.items():
        full, other = (np.stack([getattr(p, side) for p in pairs]) for side in ("full", "other"))
        bands.append(side_by_side(full, {name: other}, len(pairs)))
    return np.concatenate(bands, axis=0)


def _tiled(images: np.ndarray, columns: int) -> np.ndarray:
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    out = np.full((rows * h, columns * w, 3), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        out[y * h : (y + 1) * h, x * w : (x + 1) * w] = image
    return out.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def _titled(block: np.ndarray, title: str) -> np.ndarray:
    canvas = Image.new("RGB", (block.shape[1], block.shape[0] + HEAD), "white")
    canvas.paste(Image.fromarray(block), (0, HEAD))
    ImageDraw.Draw(canvas).text((2, 2), title, "black", ImageFont.load_default(11))
    return np.asarray(canvas)
