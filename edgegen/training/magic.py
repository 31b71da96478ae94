"""Recognition of image formats by a file's first bytes, and the error messages for other files."""

from __future__ import annotations

from ..core.reader import pointer

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, AVIF or HEIC"
HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
SUFFIXES = HEIC_SUFFIXES | {
    ".avif",
    ".bmp",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
}
HEAD = 64  # number of first bytes that identify a format
FOREIGN = (  # prefix, name
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"GIF8", "GIF"),
    (b"8BPS", "PSD"),
    (b"SIMPLE  =", "FITS"),
    (b"DDS ", "DDS"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
)
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
REFUSED_SUFFIXES = RAW | {  # named as bad photos instead of ignored as other files
    ".gif",
    ".eps",
    ".ps",
    ".pdf",
    ".svg",
    ".psd",
    ".fits",
    ".dds",
    ".jp2",
    ".jxl",
    ".ico",
}


def recognised(data: bytes) -> str | None:
    """Return Pillow's name of the format, or None if edgegen does not read it."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF" if data[8:10] != b"CR" else None  # CR2, camera raw
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    # "BM" begins many texts too, so the size of the second header must also be plausible
    return "BMP" if data[:2] == b"BM" and data[15:18] == bytes(3) and data[14] else None


def _of_brands(data: bytes) -> str | None:
    """Return the format of a file in boxes (ISO 14496-12) by the brands in its first box."""
    size = min(int.from_bytes(data[:4], "big"), HEAD)
    brands = {data[8:12], *(data[k : k + 4] for k in range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & HEIC else None


def refused(data: bytes, suffix: str) -> tuple[str, str]:
    """Return the error code and the reason for a file in none of the formats that are read."""
    if keeper := pointer(data):
        return "E-IMG-NOT-IMAGE", f"this is a {keeper[0]} pointer; run `{keeper[1]}`"
    name = _foreign(data, suffix)
    if name:
        return "E-IMG-FORMAT", f"{name} is not accepted; convert to PNG or JPEG"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "E-IMG-NOT-IMAGE", "this is an HTML page, not an image"
    if not any(byte < 9 for byte in data[:512]):
        return "E-IMG-NOT-IMAGE", "this is text, not an image"
    return "E-IMG-NOT-IMAGE", f"the content is not {FORMATS}"


def _foreign(data: bytes, suffix: str) -> str | None:
    for prefix, name in FOREIGN:
        if data.startswith(prefix):
            return name
    if data[4:8] == b"ftyp":
        return "camera raw or video"
    if suffix in RAW:
        return "camera raw"
    return "SVG" if b"<svg" in data[:1024].lower() else None


def webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a WebP file from its header, or (0, 0) if that is too short."""
    if len(data) < 30:
        return 0, 0
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(
        data[28:30], "little"
    ) & 0x3FFF
