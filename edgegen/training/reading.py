"""How photos are read: on what background, fitted how, and what becomes of one that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import ImageColor

from ..errors import UsageError
from .square import FITS, Fit, Want

MIN_SIDE = 16  # pixels: below that a photo says too little, above it a 32 px model can use it
OnBad = Literal["skip", "fail"]


@dataclass(frozen=True)
class PhotoReading:
    """background: a colour under what is transparent and around what is padded; fit: of a photo
    that is not square, see Want; on_bad: whether one that cannot be used is skipped and named, or
    fails all; min_side: pixels that the shorter side of a file needs; classes: whether folders and
    tables may say them; follow_links: symbolic links that stay inside the folder are followed;
    max_megapixels: of a photo, None for what its format bears.
    """

    background: str = "white"
    fit: Fit = "pad"
    on_bad: OnBad = "skip"
    min_side: int = MIN_SIDE
    classes: bool = True
    follow_links: bool = False
    max_megapixels: int | None = None

    def __post_init__(self) -> None:
        if self.max_megapixels is not None and self.max_megapixels < 1:
            what = f"max_megapixels must be positive, got {self.max_megapixels}"
            raise UsageError("E-CONFIG", what)
        if self.min_side < 1 or self.on_bad not in ("skip", "fail") or self.fit not in FITS:
            raise UsageError(
                "E-CONFIG",
                f"min_side={self.min_side} must be positive, on_bad={self.on_bad!r} be skip or "
                f"fail, fit={self.fit!r} be pad or crop",
            )

    def want(self, size: int) -> Want:
        """What every photo becomes for a model of that size."""
        if size < 1:
            raise UsageError("E-CONFIG", f"a photo's size must be positive, got {size}")
        background = colour(self.background)
        return Want(size, background, self.min_side, self.fit, self.max_megapixels)


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a name or hex; UsageError for what is neither."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UsageError(
            "E-CONFIG", f"background {name!r} is not a colour", hint="write a name or hex #f0f0f0"
        ) from error
    return red, green, blue
