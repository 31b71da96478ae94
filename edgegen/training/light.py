"""Detection of photo sets that are nearly all black or white, because of a wrong bit depth or
overexposure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DARK, BRIGHT = 40, 215  # levels of 255
SHARE = 0.5  # share of such photos above which there is a warning
EDGE = 1  # percent of a photo's values that are ignored at either end


class UsedPhoto(NamedTuple):
    """A decoded photo; shape: its upright width and height in pixels."""

    name: str
    label: str
    shape: tuple[int, int]


def dark_and_bright(
    pixels: np.ndarray, used: Sequence[UsedPhoto], fit: str, warnings: dict[str, list[str]]
) -> None:
    """Add warnings that name the dark photos (nothing brighter than DARK) if they are most of
    pixels (n, h, w, 3), and likewise the bright ones. The padding of a photo does not count.
    """
    ends = [
        np.percentile(_own(image, photo.shape, fit), (EDGE, 100 - EDGE))
        for image, photo in zip(pixels, used, strict=True)
    ]
    dark = [photo.name for photo, (_, high) in zip(used, ends, strict=True) if high < DARK]
    bright = [photo.name for photo, (low, _) in zip(used, ends, strict=True) if low > BRIGHT]
    for code, names in (("W-DATA-DARK", dark), ("W-DATA-BRIGHT", bright)):
        if names and len(names) > SHARE * len(used):
            warnings[code] = names


def _own(image: np.ndarray, shape: tuple[int, int], fit: str) -> np.ndarray:
    """Return the part of a square image that the photo fills."""
    if fit == "crop":
        return image
    size = len(image)
    width, height = (max(1, round(side * size / max(shape))) for side in shape)
    left, top = (size - width) // 2, (size - height) // 2
    return image[top : top + height, left : left + width]
