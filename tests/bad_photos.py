"""Photos that cannot be used, by their number in test_bad_photo_classes: the file's name, its
bytes, what is said of it.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 48, height: int = 48) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or picture()).save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width: int, height: int, depth: int = 1, color: int = 0) -> bytes:
    """A PNG header of that size with next to no data."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def bomb(width: int, height: int) -> bytes:
    """A whole black PNG in a few KB."""
    rows = zlib.compressobj()
    data = (
        b"".join(rows.compress(bytes(1 + (width + 7) // 8) * 100) for _ in range(height // 100))
        + rows.flush()
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def webp_claiming(side: int) -> bytes:
    data = bytearray(encoded("WEBP", lossless=True))
    data[21:25] = (
        (side - 1) | (side - 1) << 14 | int.from_bytes(data[21:25], "little") & 0xF0000000
    ).to_bytes(4, "little")
    return bytes(data)


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG with another size in its frame header."""
    data = encoded("JPEG", Image.new("RGB", (16, 16)))
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def flipped(data: bytes, where: int) -> bytes:
    return data[:where] + bytes([data[where] ^ 0x10]) + data[where + 1 :]


def thumbnailed(cut: int) -> bytes:
    """A JPEG whose EXIF holds a small JPEG with an end marker of its own, cut at the end."""
    small = encoded("JPEG", picture(1, 16, 16))
    data = encoded("JPEG")
    segment = b"Exif\0\0" + small
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    return whole[: len(whole) - cut]


JPEG, PNG = encoded("JPEG"), encoded("PNG")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)).convert(
    "RGB"
)
BAD: dict[str, tuple[str, bytes, str, str]] = {  # name: file, content, code, words of the reason
    "B03 zero bytes": ("a.jpg", b"", "E-IMG-EMPTY", "0 bytes"),
    "B04 half a JPEG": ("a.jpg", JPEG[: len(JPEG) // 2], "E-IMG-TRUNCATED", "ends too early"),
    "B05 JPEG without its end": ("a.jpg", JPEG[:-2], "E-IMG-TRUNCATED", "ends too early"),
    "B05 that Pillow reads": (
        "a.jpg",
        encoded("JPEG", NOISE)[:-2],
        "E-IMG-TRUNCATED",
        "end marker is missing",
    ),
    "B05 with a thumbnail": ("a.jpg", thumbnailed(2), "E-IMG-TRUNCATED", "ends too early"),
    "B05 progressive": (
        "a.jpg",
        encoded("JPEG", progressive=True)[:-40],
        "E-IMG-TRUNCATED",
        "ends too early",
    ),
    "half a BMP": ("a.bmp", encoded("BMP")[:3000], "E-IMG-TRUNCATED", "ends too early"),
    "half a TIFF": ("a.tif", encoded("TIFF")[:3000], "E-IMG-", "TIFF"),
    "half a WebP": ("a.webp", encoded("WEBP")[:200], "E-IMG-", "WEBP"),
    "B07 PNG with a flipped bit": (
        "a.png",
        flipped(PNG, len(PNG) // 2),
        "E-IMG-CORRUPT",
        "damaged PNG",
    ),
    "B07 half a PNG": ("a.png", PNG[: len(PNG) // 2], "E-IMG-CORRUPT", "damaged PNG"),
    "only a header": ("a.jpg", JPEG[:20], "E-IMG-", "JPEG"),
    "B08 HTML": ("a.jpg", b"\n<!DOCTYPE html><html>404</html>", "E-IMG-NOT-IMAGE", "HTML page"),
    "B08 Git LFS": (
        "a.png",
        b"version https://git-lfs.github.com/spec/v1\n",
        "E-IMG-NOT-IMAGE",
        "run `git lfs pull`",
    ),
    "B08 text": ("a.png", b"no picture here\n", "E-IMG-NOT-IMAGE", "this is text"),
    "B08 noise": (
        "a.png",
        bytes(range(256)),
        "E-IMG-NOT-IMAGE",
        "not JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC",
    ),
    "B16 GIF": ("a.jpg", encoded("GIF"), "E-IMG-FORMAT", "GIF is not accepted; convert"),
    "B17 bomb": (
        "a.png",
        bomb(20_000, 20_000),
        "E-IMG-TOO-LARGE",
        "20000x20000 is 400 MP, more than the limit of 64 MP",
    ),
    "B18 smaller bomb": ("a.png", bomb(12_000, 9_000), "E-IMG-TOO-LARGE", "108 MP"),
    "B18 JPEG that is all header": (
        "a.jpg",
        jpeg_claiming(12_000, 9_000),
        "E-IMG-TOO-LARGE",
        "12000x9000 is 108 MP in ",
    ),
    "B19 impossible size": ("a.png", png_claiming(2**32 - 1, 2**32 - 1), "E-IMG-", ""),
    "B19 largest size": (
        "a.png",
        png_claiming(2**31 - 1, 2**31 - 1),
        "E-IMG-TOO-LARGE",
        "more than the limit",
    ),
    "WebP bomb": ("a.webp", webp_claiming(16_000), "E-IMG-TOO-LARGE", "256 MP"),
    "B21 one pixel": (
        "a.png",
        encoded("PNG", picture(0, 1, 1)),
        "E-IMG-TOO-SMALL",
        "1x1 pixels; the shorter side must",
    ),
    "B21 a line": ("a.png", encoded("PNG", picture(0, 10_000, 1)), "E-IMG-TOO-SMALL", "10000x1"),
    "B22 EPS": (
        "a.jpg",
        encoded("EPS"),
        "E-IMG-FORMAT",
        "EPS is not accepted; convert to PNG or JPEG",
    ),
    "B22 PDF": ("a.pdf", b"%PDF-1.7\n", "E-IMG-FORMAT", "PDF"),
    "B22 SVG": ("a.svg", b'<?xml version="1.0"?><svg/>', "E-IMG-FORMAT", "SVG"),
    "B22 PSD": ("a.psd", b"8BPS\0\1", "E-IMG-FORMAT", "PSD"),
    "B22 FITS": ("a.fits", b"SIMPLE  =", "E-IMG-FORMAT", "FITS"),
    "B22 DDS": ("a.dds", b"DDS |\0\0\0", "E-IMG-FORMAT", "DDS"),
    # read where pillow-heif is there, else refused with a word on it
    "B22 HEIC without its data": ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "E-IMG-", "HEI"),
    "B22 AVIF without its data": ("a.jpg", b"\0\0\0\x1cftypavif\0\0\0\0", "E-IMG-", "AVIF"),
    "B22 video": ("a.heic", b"\0\0\0\x1cftypqt  \0\0\0\0", "E-IMG-FORMAT", "raw or video"),
    "B22 raw in TIFF": ("a.nef", encoded("TIFF"), "E-IMG-FORMAT", "camera raw"),
    "B22 DNG called TIFF": (
        "a.tif",
        encoded("TIFF", tiffinfo={50706: b"\1\4\0\0"}),
        "E-IMG-FORMAT",
        "DNG",
    ),
    "float pixels": (
        "a.tif",
        encoded("TIFF", Image.new("F", (40, 40))),
        "E-IMG-FORMAT",
        "type F are not accepted",
    ),
}
