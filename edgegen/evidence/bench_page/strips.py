"""Make the pictures of a report: images of one size in rows and columns, as few and as small as a
page of three megabytes can hold.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.images import png, read
from ..bench_document import Strip

BUDGET = 1_900_000  # bytes of pixels in all strips of a page together
MOST, FEWEST = 8, 2  # most and least images of a strip
SIDES = (128, 64, 32)  # pixels of the larger side of a shown image, at most
FOLDER = "pictures"


def fitting(side: int, budget: int, most: int = MOST) -> tuple[int, int]:
    """Return how many images of side `side` fit a strip of `budget` bytes, and the side at which
    they are shown: the largest that leaves room for FEWEST.
    """
    for shown in SIDES:
        size = min(side, shown)
        count = budget // (3 * size * size)
        if count >= FEWEST:
            break
    return max(FEWEST, min(most, count)), size


def reduced(images: np.ndarray, side: int) -> tuple[np.ndarray, int]:
    """Return images (n, h, w, 3) uint8 whose sides are at most `side`, and the factor by which they
    were reduced; each pixel is the mean of a square of pixels.
    """
    factor = math.ceil(max(images.shape[1:3]) / side)
    if factor <= 1:
        return images, 1
    made = [np.asarray(Image.fromarray(image).reduce(factor)) for image in images]
    return np.stack(made), factor


def strip(name: str, rows: list[np.ndarray], side: int) -> tuple[Strip, bytes]:
    """Make a picture file of rows of images (n, h, w, 3), all of one size.

    Returns its description for the document, and its bytes.
    """
    smaller = [reduced(images, side) for images in rows]
    columns, height, width, _ = smaller[0][0].shape
    pixels = np.concatenate([np.concatenate(list(images), axis=1) for images, _ in smaller])
    about = Strip(
        file=f"{FOLDER}/{name}.png",
        rows=len(rows),
        columns=columns,
        height=height,
        width=width,
        reduced=smaller[0][1],
    )
    return about, png(pixels)


def read_strip(folder: Path, about: Strip) -> np.ndarray:
    """Read the images of a picture file, (rows, columns, h, w, 3) uint8.

    Raises InputError for a file that is no picture, or has another size than the document says.
    """
    height, width = about.rows * about.height, about.columns * about.width
    planes = read(folder / about.file, (3, height, width))
    pixels = np.rint(planes.transpose(1, 2, 0) * 255).astype(np.uint8)
    shape = (about.rows, about.height, about.columns, about.width, 3)
    made: np.ndarray = pixels.reshape(shape).swapaxes(1, 2)
    return made
