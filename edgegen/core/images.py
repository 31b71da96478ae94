"""Images between a generator's [-1, 1] and files: grids and PNGs, without metadata."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from .files import write_bytes
from .reader import read_bytes
from .spec import Array

PICTURE_BYTES = 256 << 20


def to_uint8(images: Array) -> np.ndarray:
    """Convert images (n, c, h, w) float in [-1, 1], with c 1 or 3, to (n, h, w, 3) uint8.

    InputError if a value is not finite.
    """
    if not np.isfinite(images).all():
        raise InputError("E-NONFINITE", "generated images hold NaN or infinite values")
    levels = np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return levels if levels.shape[3] == 3 else np.repeat(levels[..., :1], 3, axis=3)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Join images (n, h, w, 3) uint8 into one picture, row by row, `gap` white pixels apart.

    columns: by default the square root of n, rounded up.
    """
    n, h, w, _ = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    out = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        out[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = image
    return out


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """Encode (h, w, 3) uint8 as PNG bytes without text chunks; each pixel is `scale` wide."""
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(
        out, "png"
    )
    return out.getvalue()


def save_png(path: Path, pixels: np.ndarray, scale: int = 1) -> None:
    """Write (h, w, 3) uint8 as a PNG file, in one replace; each pixel is `scale` wide."""
    write_bytes(path, png(pixels, scale))


def read(path: Path, shape: tuple[int, int, int]) -> Array:
    """Read a PNG or JPEG as an array of `shape` (c, h, w) in [0, 1].

    With 2 or 4 channels the last is a mask, 1 where alpha is at least 0.5 and else 0, and the
    other channels are 0 outside it. InputError E-IMAGE for a file that is not a readable picture,
    E-IMAGE-SIZE for another size than `shape`.
    """
    channels, height, width = shape
    try:
        data = read_bytes(path, PICTURE_BYTES, "E-IMAGE")
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.size != (width, height):  # before anything is decoded
                what = (
                    f"the picture is {image.width} x {image.height} pixels, this generator "
                    f"needs {width} x {height}"
                )
                raise InputError("E-IMAGE-SIZE", what, path=path)
            pixels = (
                np.asarray(
                    image.convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]), np.float32
                )
                / 255
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError("E-IMAGE", "this is no PNG or JPEG that can be read", path=path) from error
    planes = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    if channels in (2, 4):
        seen = (planes[-1:] >= 0.5).astype(np.float32)
        planes = np.concatenate([planes[:-1] * seen, seen])
    return np.ascontiguousarray(planes)
