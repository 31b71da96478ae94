"""The chunks of a PNG beside its pixels, read before a decoder sees the file: colour information is
kept, and text of any size is dropped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP = b"XML:com.adobe.xmp\0\0"  # uncompressed XMP, which may hold the orientation
MAX_XMP = 256 << 10
MAX_PROFILE = 4 << 20  # bytes; printers' profiles have up to 3 MB
LEAST_AREA = 0.01  # smallest area that primaries must span; those of sRGB span 0.11
HUNDRED_THOUSAND = 1e5  # a PNG stores gamma and chromaticities times this


class Chunks(NamedTuple):
    """A PNG's colour information.

    data: the file without text and profile. profile: the ICC profile, None if there is none or it
    is `unusable`. gamma: of the samples (1 is linear); primaries: x and y of white, red, green and
    blue. srgb: whether the file declares sRGB.
    """

    data: bytes
    profile: bytes | None = None
    unusable: bool = False
    gamma: float | None = None
    primaries: tuple[float, ...] | None = None
    srgb: bool = False


def read(data: bytes) -> Chunks:
    """Read the chunks of a whole PNG. Malformed chunks stay, so that its decoder refuses them."""
    kept: list[bytes] = [SIGNATURE]
    about: dict[bytes, bytes] = {}
    start = len(SIGNATURE)
    for kind, at, end in _chunks(data):
        body = data[at + 8 : end - 4] if kind != b"IDAT" else b""
        if kind == b"iCCP" or (kind in TEXTS and not (body.startswith(XMP) and end - at < MAX_XMP)):
            kept.append(data[start:at])
            start = end
        if kind in (b"iCCP", b"gAMA", b"cHRM", b"sRGB"):
            about.setdefault(kind, body)
    plain = b"".join([*kept, data[start:]]) if len(kept) > 1 else data
    profile = _profile(about[b"iCCP"]) if b"iCCP" in about else None
    return Chunks(
        plain,
        profile,
        b"iCCP" in about and profile is None,
        _gamma(about.get(b"gAMA", b"")),
        _primaries(about.get(b"cHRM", b"")),
        b"sRGB" in about,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of each chunk, up to the first incomplete one."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            return
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end


def _profile(body: bytes) -> bytes | None:
    _, _, packed = body.partition(b"\0")
    if packed[:1] != b"\0":  # another way of compression
        return None
    try:
        inflating = zlib.decompressobj()
        profile = inflating.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return None
    return profile if inflating.eof else None


def _gamma(body: bytes) -> float | None:
    value = int.from_bytes(body, "big") if len(body) == 4 else 0
    return value / HUNDRED_THOUSAND if value else None


def _primaries(body: bytes) -> tuple[float, ...] | None:
    if len(body) != 32:
        return None
    values = tuple(value / HUNDRED_THOUSAND for value in struct.unpack(">8I", body))
    _, _, xr, yr, xg, yg, xb, yb = values
    area = abs((xg - xr) * (yb - yr) - (xb - xr) * (yg - yr)) / 2
    whole = all(0 < y <= 1 for y in values[1::2]) and all(x <= 1 for x in values[0::2])
    return values if whole and area > LEAST_AREA else None
