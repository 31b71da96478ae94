"""Conversion of photos to sRGB with littlecms, from their ICC profiles, gamma and primaries."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from itertools import product

from PIL import Image, ImageChops, ImageCms

from .png_chunks import MAX_PROFILE, Chunks

SRGB_GAMMA = 1 / 2.2  # gamma of sRGB in PNG's convention
NEAR = 0.02  # gammas that differ by less count as equal
SAME = 2  # levels by which a profile may change a colour and still count as sRGB
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 256 / 563
NAMES = (b"r", b"g", b"b")
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # a profile's name of each Pillow mode
Matrix = tuple[tuple[float, ...], ...]


def of_png(chunks: Chunks) -> bytes | None:
    """Return the ICC profile that a PNG's chunks describe, by their precedence; None for sRGB."""
    if chunks.profile is not None:
        return chunks.profile
    if chunks.srgb or chunks.gamma is None:
        return None
    primaries = chunks.primaries or SRGB_PRIMARIES
    own = max(abs(a - b) for a, b in zip(primaries, SRGB_PRIMARIES, strict=True)) < 0.005
    if own and abs(chunks.gamma - SRGB_GAMMA) < NEAR:
        return None
    return matrix_profile(primaries, chunks.gamma)


def adobe_rgb() -> bytes:
    """Return the profile of Adobe RGB, for cameras that name it in EXIF and embed no profile."""
    return matrix_profile(ADOBE_PRIMARIES, ADOBE_GAMMA)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert an RGB, L or CMYK image to RGB in sRGB.

    None if the profile is for another mode or cannot be used.
    """
    transform = _transform(profile, image.mode)
    if isinstance(transform, str):
        return image if image.mode == "RGB" else image.convert("RGB")
    return None if transform is None else ImageCms.applyTransform(image, transform)


@lru_cache(8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | str | None:
    """Return the transform to sRGB, "same" if the profile is sRGB up to rounding, or None if it
    cannot be used.
    """
    if len(profile) > MAX_PROFILE:
        return None
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space != SPACES.get(mode):
            return None
        made = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        probe = _probe(mode)
        moved = ImageCms.applyTransform(probe, made)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "CMYK" or moved is None:
        return made
    difference = ImageChops.difference(moved, probe.convert("RGB"))
    # each band's histogram has 256 counts
    return made if any(any(band.histogram()[SAME + 1 :]) for band in difference.split()) else "same"


def _probe(mode: str) -> Image.Image:
    """Return an image of colours from the whole cube, or of greys for mode L."""
    levels = range(0, 256, 51)
    if mode == "L":
        return Image.frombytes("L", (len(levels), 1), bytes(levels))
    colours = b"".join(map(bytes, product(levels, repeat=len(mode))))
    return Image.frombytes(mode, (len(colours) // len(mode), 1), colours)


@lru_cache(8)
def matrix_profile(primaries: tuple[float, ...], gamma: float) -> bytes:
    """Return an ICC profile (ICC.1:2001-04) with three primaries and one gamma.

    primaries: x and y of white, red, green and blue; gamma: of the samples, 1 for linear ones.
    """
    columns = _adapted(primaries)
    curve = b"curv" + struct.pack(">IIH", 0, 1, min(65535, max(1, round(256 / gamma))))
    text = b"made of what a photo says"
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(text) + 1) + text + bytes(79),
        b"cprt": b"text" + bytes(4) + text + b"\0",
        b"wtpt": _xyz(D50),
        **{name + b"XYZ": _xyz(column) for name, column in zip(NAMES, columns, strict=True)},
        **{name + b"TRC": curve for name in NAMES},
    }
    table, body = struct.pack(">I", len(tags)), b""
    first = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, first + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", first + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    date = struct.pack(">6H", 2001, 4, 1, 0, 0, 0)
    head += date + b"acsp" + bytes(28) + _xyz(D50)[8:] + bytes(48)
    return head + table + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _adapted(primaries: tuple[float, ...]) -> Matrix:
    """Return X, Y and Z of red, green and blue, adapted to D50 (Bradford)."""
    xyz = [
        (x / y, 1.0, (1 - x - y) / y) for x, y in zip(primaries[0::2], primaries[1::2], strict=True)
    ]
    white, colours = xyz[0], tuple(xyz[1:])
    shares = _times(_inverse(_transposed(colours)), white)
    columns = tuple(
        tuple(share * value for value in colour)
        for share, colour in zip(shares, colours, strict=True)
    )
    cones, wanted = _times(BRADFORD, white), _times(BRADFORD, D50)
    back = _inverse(BRADFORD)

    def adapted(colour: tuple[float, ...]) -> tuple[float, ...]:
        seen = _times(BRADFORD, colour)
        scaled = tuple(s * w / c for s, w, c in zip(seen, wanted, cones, strict=True))
        return _times(back, scaled)

    return tuple(adapted(column) for column in columns)


def _times(matrix: Matrix, vector: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of a 3 x 3 matrix, by cofactors."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    whole = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    return tuple(tuple(value / whole for value in row) for row in rows)
