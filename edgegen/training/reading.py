"""The settings with which photos are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import ImageColor

from ..errors import UsageError
from .square import FITS, Fit, Want

MIN_SIDE = 16  # least pixels of the shorter side, enough for a 32 px model
OnBad = Literal["skip", "fail"]


@dataclass(frozen=True)
class PhotoReading:
    """The settings with which photos are read.

    background: colour under transparent pixels and around padded photos; fit: how a photo that is
    not square is fitted, see Want; on_bad: whether a bad photo is skipped and named, or is an
    error; min_side: least pixels of a file's shorter side; classes: whether folders and tables may
    give classes; follow_links: whether to follow symbolic links that stay inside the folder;
    max_megapixels: largest photo, None for the limit of its format.
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
        """Return how photos are decoded for a model of that size. UsageError for bad settings."""
        if size < 1:
            raise UsageError("E-CONFIG", f"a photo's size must be positive, got {size}")
        background = colour(self.background)
        return Want(size, background, self.min_side, self.fit, self.max_megapixels)


def colour(name: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour's name or hex code. UsageError for anything else."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UsageError(
            "E-CONFIG", f"background {name!r} is not a colour", hint="write a name or hex #f0f0f0"
        ) from error
    return red, green, blue
