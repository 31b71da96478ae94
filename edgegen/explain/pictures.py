"""Pictures of regions and primitives, made from images (c, h, w) in [-1, 1]: arrays (h, w, 3) uint8
in which `scale_of` pixels a side show one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.images import to_uint8
from .lattice import Floats
from .regions import Regions

SIDE = 192  # least pixels of a picture's larger side
# colours from nothing to most
COLOURS = np.array([[255, 255, 255], [255, 224, 130], [244, 109, 67], [165, 0, 38]], np.float64)


def scale_of(image: Floats) -> int:
    return max(1, -(-SIDE // max(image.shape[1:])))


def plain(image: Floats) -> np.ndarray:
    return _larger(to_uint8(image[None])[0], scale_of(image))


def colours(values: Floats) -> np.ndarray:
    """Colour values (h, w) in [0, 1] from white over orange to dark red, as (h, w, 3) uint8."""
    place = np.clip(values, 0, 1) * (len(COLOURS) - 1)
    low = np.minimum(place.astype(int), len(COLOURS) - 2)
    return np.rint(
        COLOURS[low] + (place - low)[..., None] * (COLOURS[low + 1] - COLOURS[low])
    ).astype(np.uint8)


def heat(image: Floats, values: Floats, most: float) -> np.ndarray:
    """Draw values (h, w) over the image in grey; 0 has no colour and `most` the full colour."""
    share = np.clip(values / most, 0, 1) if most > 0 else values * 0
    grey = to_uint8(image[None])[0].astype(float).mean(2, keepdims=True) * 0.35 + 160
    strength = 0.6 * share[..., None] ** 0.5  # the image stays visible
    mixed = grey * (1 - strength) + colours(share).astype(float) * strength
    return _larger(np.rint(mixed).clip(0, 255).astype(np.uint8), scale_of(image))


def change(image: Floats, other: Floats) -> Floats:
    """Return the mean over channels (h, w) of the absolute difference of two images."""
    apart: Floats = np.abs(image.astype(np.float64) - other).mean(0)
    return apart


def outlined(
    pixels: np.ndarray, regions: Regions, chosen: int | None = None, numbers: bool = False
) -> np.ndarray:
    """Draw the borders of the regions on a picture, or only those of the set `chosen`.

    numbers: whether to write each region's number, from 1.
    """
    scale = pixels.shape[0] // regions.labels.shape[0]
    inside = regions.labels if chosen is None else regions.mask(chosen).astype(int)
    wide = inside.repeat(scale, 0).repeat(scale, 1)
    edge = np.zeros(wide.shape, bool)
    for step in (1, 2):
        edge[step:] |= wide[step:] != wide[:-step]
        edge[:, step:] |= wide[:, step:] != wide[:, :-step]
    out = pixels.copy()
    out[edge] = (0, 90, 200)
    if not numbers:
        return out
    canvas = Image.fromarray(out)
    drawn = ImageDraw.Draw(canvas)
    for j, mask in enumerate(regions.masks):
        y, x = (float(axis.mean() + 0.5) * scale for axis in np.nonzero(mask))
        drawn.text(
            (x, y),
            str(j + 1),
            (0, 90, 200),
            ImageFont.load_default(16),
            anchor="mm",
            stroke_width=2,
            stroke_fill="white",
        )
    return np.asarray(canvas)


def bar(share: float, width: int, height: int = 10) -> np.ndarray:
    """Draw a strength in [0, 1] as the filled part of a bar."""
    out = np.full((height, width, 3), 225, np.uint8)
    out[:, : round(share * width)] = (165, 0, 38)
    return out


def beside(pictures: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Join pictures of equal height in a row."""
    space = np.full((pictures[0].shape[0], gap, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, space)][:-1], axis=1)


def below(pictures: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Join pictures of equal width in a column."""
    space = np.full((gap, pictures[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, space)][:-1], axis=0)


def _larger(pixels: np.ndarray, scale: int) -> np.ndarray:
    return pixels.repeat(scale, 0).repeat(scale, 1)
