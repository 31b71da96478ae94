"""What every photo becomes: a square of the wanted size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

ROOM = 4  # times the wanted size: a photo is made smaller in whole steps no further than that
REDUCED = 1_000_000  # pixels from which on that is done
STRIP = 64  # rows
Fit = Literal["pad", "crop"]


@dataclass(frozen=True)
class Want:
    """What every photo becomes: size in pixels, background (r, g, b); shorter side of the file at
    least min_side pixels.

    fit: of a photo that is not square, "pad" keeps all, centred on the background, and "crop" keeps
    the centred square. max_megapixels: of a file of any format; None is as each is decoded.
    """

    size: int
    background: tuple[int, int, int]
    min_side: int
    fit: Fit = "pad"
    max_megapixels: int | None = None


def reduced(image: Image.Image, want: Want) -> tuple[Image.Image, tuple[float, float]]:
    """A large photo by a whole number smaller, to no less than ROOM x what is wanted: what follows
    then costs little. What is transparent weighs as much as it is seen. The size is what of it is
    photo: the last column and row may be so in part.
    """
    side = (min if want.fit == "crop" else max)(image.size)
    half = min(side // (ROOM * want.size), *image.size) // 2
    if half < 1 or image.width * image.height < REDUCED:
        return image, image.size
    size = image.width / (2 * half), image.height / (2 * half)
    if image.mode != "RGBA":
        return image.reduce(2).reduce(half), size  # the first is a fast path of Pillow's
    return _reduced_as_seen(image, half), size


def _reduced_as_seen(image: Image.Image, half: int) -> Image.Image:
    """An RGBA image 2 x half smaller, strip by strip: what a strip becomes on its way stays in the
    processor's cache.
    """
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
