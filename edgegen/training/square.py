"""Fitting of photos into squares of the wanted size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

ROOM = 4  # a photo is reduced by a whole factor to no less than this times the wanted size
REDUCED = 1_000_000  # pixels from which on a photo is reduced first
STRIP = 64  # rows of a strip
Fit = Literal["pad", "crop"]


@dataclass(frozen=True)
class Want:
    """How photos are decoded: size in pixels, background (r, g, b), and the least pixels min_side
    of a file's shorter side.

    fit: "pad" keeps a photo that is not square whole, centred on the background, and "crop" keeps
    its centred square. max_megapixels: limit for all formats; None for each format's own.
    """

    size: int
    background: tuple[int, int, int]
    min_side: int
    fit: Fit = "pad"
    max_megapixels: int | None = None


def reduced(image: Image.Image, want: Want) -> tuple[Image.Image, tuple[float, float]]:
    """Reduce a large photo by a whole factor, to no less than ROOM x the wanted size, so that later
    steps cost little. Pixels are weighted by their alpha.

    The size returned is the exact size of the photo in the reduced image, whose last column and row
    it may fill only in part.
    """
    side = (min if want.fit == "crop" else max)(image.size)
    half = min(side // (ROOM * want.size), *image.size) // 2
    if half < 1 or image.width * image.height < REDUCED:
        return image, image.size
    size = image.width / (2 * half), image.height / (2 * half)
    if image.mode != "RGBA":
        return image.reduce(2).reduce(half), size  # Pillow has a fast path for reduce(2)
    return _reduced_as_seen(image, half), size


def _reduced_as_seen(image: Image.Image, half: int) -> Image.Image:
    """Reduce an RGBA image by 2 x half, in strips whose intermediate images fit the CPU's cache."""
    step = 2 * half
    width, height = (-(-side // step) for side in image.size)
    smaller = Image.new("RGBa", (width, height))
    rows = step * max(1, STRIP // step)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        smaller.paste(strip.convert("RGBa").reduce(2).reduce(half), (0, top // step))
    return smaller.convert("RGBA")


def _pad(image: Image.Image, size: tuple[float, float], want: Want) -> Image.Image:
    scale = want.size / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    out = Image.new("RGB", (want.size, want.size), want.background)
    out.paste(
        image.resize((width, height), Image.Resampling.BICUBIC, (0, 0, *size)),
        ((want.size - width) // 2, (want.size - height) // 2),
    )
    return out


def _crop(image: Image.Image, size: tuple[float, float], want: Want) -> Image.Image:
    side = min(size)
    if size == image.size:  # whole pixels
        left, top = (int(length - side) // 2 for length in size)
        box = left, top, left + int(side), top + int(side)
        return image.crop(box).resize((want.size, want.size), Image.Resampling.BICUBIC)
    x, y = ((length - side) / 2 for length in size)
    return image.resize(
        (want.size, want.size), Image.Resampling.BICUBIC, (x, y, x + side, y + side)
    )


FITS = {"pad": _pad, "crop": _crop}
