"""The regions of an image by which primitives are distinguished: a grid, or a mask picture with one
colour per region.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.images import PICTURE_BYTES
from ..core.reader import read_bytes
from ..errors import InputError, UsageError

MOST = 62  # most regions, so that a set of them fits a 64-bit integer
LATTICE = 12  # most regions for which all subsets are demanded


@dataclass(frozen=True)
class Regions:
    """The regions of an image; labels (h, w): each pixel's region, from 0, or -1 for none."""

    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.count < 1 or set(range(self.count)) - set(np.unique(self.labels).tolist()):
            raise ValueError("regions are numbered from 0 without gaps")

    @property
    def count(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def masks(self) -> np.ndarray:
        """The masks of all regions, (n, h, w) bool."""
        return self.labels[None] == np.arange(self.count)[:, None, None]

    def mask(self, chosen: int) -> np.ndarray:
        """Return the mask (h, w) bool of a set of regions."""
        bits = np.array([bool(chosen >> j & 1) for j in range(self.count)])
        return (self.labels >= 0) & bits[np.maximum(self.labels, 0)]


def name_of(chosen: int) -> str:
    """Return a set of regions as text, counted from 1: 0b10010 -> "2,5"."""
    return ",".join(str(j + 1) for j in range(chosen.bit_length()) if chosen >> j & 1)


def set_of(text: str, count: int) -> int:
    """Parse a set of regions: "2,5" -> 0b10010. UsageError unless the text lists different numbers
    in 1..count.
    """
    numbers = [
        int(part)
        for part in re.split(r"\s*,\s*", text.strip())
        if re.fullmatch(r"[0-9]{1,3}", part)
    ]
    if (
        len(numbers) != text.count(",") + 1
        or len(set(numbers)) != len(numbers)
        or not all(1 <= k <= count for k in numbers)
    ):
        raise UsageError(
            "E-REGIONS",
            f"regions are different numbers from 1 to {count} such as 2,5, got {text!r}",
        )
    return sum(1 << (k - 1) for k in numbers)


def regions(text: str, height: int, width: int) -> Regions:
    """Make regions for images of that size from "3x3" (rows x columns) or a mask PNG's path."""
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", text)
    if match is None:
        return from_mask(Path(text), height, width)
    return grid(int(match[1]), int(match[2]), height, width)


def grid(rows: int, columns: int, height: int, width: int) -> Regions:
    """Return a grid of cells as equal as whole pixels allow, numbered row by row."""
    if not (1 <= rows <= height and 1 <= columns <= width and 2 <= rows * columns <= MOST):
        raise UsageError(
            "E-REGIONS",
            f"a grid of {rows}x{columns} does not fit an image of {height} x {width} pixels: rows "
            "and "
            f"columns must be between 1 and its sides, and cells between 2 and {MOST}",
        )
    row = np.searchsorted(
        np.rint(np.arange(1, rows) * height / rows), np.arange(height), side="right"
    )
    column = np.searchsorted(
        np.rint(np.arange(1, columns) * width / columns), np.arange(width), side="right"
    )
    return Regions(row[:, None] * columns + column[None])


def from_mask(path: Path, height: int, width: int) -> Regions:
    """Read regions from a mask PNG with one colour per region; black is no region.

    They are numbered by their first pixel, row by row. InputError says what does not fit.
    """
    if not os.path.isfile(path):
        raise UsageError(
            "E-REGIONS",
            "regions are a grid such as 3x3 or a mask PNG, and there is no such file",
            path=path,
        )
    try:
        data = read_bytes(path, PICTURE_BYTES, "E-REGIONS")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise InputError(
                    "E-REGIONS",
                    f"the mask is {image.width} x {image.height} pixels, the images are "
                    f"{width} x {height}",
                    path=path,
                )
            pixels = np.asarray(image.convert("RGB"), np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("E-REGIONS", "this is no PNG that can be read", path=path) from error
    colours = (pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]).ravel()
    found, first = np.unique(colours, return_index=True)
    parts = found[np.argsort(first)]
    parts = parts[parts != 0]
    if not 2 <= len(parts) <= MOST:
        raise InputError(
            "E-REGIONS",
            f"the mask has {len(parts)} colours besides black, it needs 2 to {MOST}: one a part, "
            "without soft edges",
            path=path,
        )
    labels = np.full(len(colours), -1)
    for k, colour in enumerate(parts):
        labels[colours == colour] = k
    return Regions(labels.reshape(height, width))
