"""Conversion of photos with more than 8 bits per channel to 8 bits."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageChops

Tags = Mapping[int, Any]  # TIFF tags by number, each with its own type
BITS, PHOTOMETRIC = 258, 262
TWELVE = 4095  # the highest level of a camera that writes 12 bits into files of 16


def is_deep(image: Image.Image, data: bytes, kind: str, tags: Tags) -> bool:
    """Return whether a photo has more than 8 bits per channel.

    Pillow keeps all bits only of grey images, and of others the upper 8.
    """
    return (
        image.mode.startswith("I;16")
        or (kind == "PNG" and data[24] == 16)
        or max(tags.get(BITS, (8,))) > 8
    )


def in_8_bits(
    image: Image.Image, data: bytes, kind: str, tags: Tags, notes: list[str]
) -> Image.Image:
    """Return the image scaled and rounded to 8 bits per channel.

    If no level exceeds 12 bits, 12 bits are the full range, and W-IMG-BITS is added to `notes`.
    """
    if image.mode.startswith("I;16"):
        return _from_grey(image, tags, notes)
    if image.mode not in ("RGB", "RGBA") or _brightest(image) > TWELVE >> 8:
        return image
    low = _low_bytes(data, kind)
    if low is None:
        return image
    notes.append("W-IMG-BITS")
    upper = image.convert("RGB").point(lambda level: min(255, level * 16))
    lower = low.convert("RGB").point(lambda level: level // 16)
    levels = ImageChops.add(upper, lower)
    if image.mode == "RGBA":
        levels.putalpha(image.getchannel("A"))
    return levels


def _from_grey(image: Image.Image, tags: Tags, notes: list[str]) -> Image.Image:
    """Convert a grey image; in a TIFF 0 may be white (TIFF 6.0, PhotometricInterpretation)."""
    levels = image.convert("I")
    highest = 2 ** max(tags.get(BITS, (16,))) - 1
    _, brightest = levels.getextrema()
    inverted = tags.get(PHOTOMETRIC) == 0
    if highest > TWELVE and isinstance(brightest, int | float) and 0 < brightest <= TWELVE:
        notes.append("W-IMG-BITS")
        highest = TWELVE
    scale = 255 / highest
    slope, start = (-scale, 255) if inverted else (scale, 0)
    return levels.point(lambda level: level * slope + (start + 0.5)).convert("L")


def _brightest(image: Image.Image) -> int:
    """Return the highest level of the first three bands, without alpha."""
    levels = [band.histogram() for band in image.split()[:3]]
    return max(level for band in levels for level, count in enumerate(band) if count)


def _low_bytes(data: bytes, kind: str) -> Image.Image | None:
    """Return the lower 8 of 16 bits per channel, or None if Pillow does not decode the file so.

    Pillow keeps the lower bytes if it is told the opposite byte order.
    """
    image = Image.open(io.BytesIO(data), formats=[kind])
    tiles = []
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        mode = str(args[0])
        if not mode.endswith((";16B", ";16L", ";16N")):
            return None
        other = mode[:-1] + ("L" if mode.endswith("B") else "B")
        changed = (other, *args[1:]) if isinstance(tile[3], tuple) else other
        tiles.append(type(tile)(tile[0], tile[1], tile[2], changed))
    image.tile = tiles
    image.load()
    return image
