"""Decoding of one photo of unknown origin into size x size RGB pixels, or an error code and reason.

This module does not import numpy, because worker.py runs it in a child process with a memory limit,
as native decoders read the file.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import stat
import warnings
import zlib
from dataclasses import replace
from functools import cache
from pathlib import PurePath
from typing import NamedTuple, NoReturn

from PIL import Image, UnidentifiedImageError, features

from . import colour, png_chunks
from .depth import Tags, in_8_bits, is_deep
from .magic import RAW, recognised, refused, webp_size
from .square import FITS, ROOM, reduced
from .square import Fit as Fit
from .square import Want as Want

MAX_PIXELS = 64_000_000  # most pixels of a photo that is decoded whole, unless more are allowed
MAX_DRAFT_PIXELS = (
    256_000_000  # most pixels of a JPEG, which can be decoded at an eighth of its size
)
MOST_MEGAPIXELS = 1_000  # largest limit that can be set
ROOM_LEFT = 0.9  # share of the remaining memory that a progressive JPEG may take
DENSEST = 100  # most pixels per byte above MAX_PIXELS; a file with more is a decompression bomb
MAX_BYTES = 256 << 20
TURN = Image.Transpose
ORIENTATION = {
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}
PLAIN = {"1", "L", "P", "RGB", "RGBX", "YCbCr"}
ALPHA = {"LA", "PA", "RGBA", "La", "RGBa"}
SIDEWAYS = {TURN.TRANSPOSE, TURN.ROTATE_270, TURN.TRANSVERSE, TURN.ROTATE_90}
DNG_VERSION, EXIF_ORIENTATION = 50706, 274
INTEROP_IFD, INTEROP_INDEX = 0xA005, 1  # where cameras declare Adobe RGB by "R03"
END = b"\xff\xd9"  # end marker of a JPEG


class Span(NamedTuple):
    """The place of a photo's bytes in a file that holds several photos.

    inflated: size after decompression, None if they are stored; crc: CRC-32 of the decompressed
    bytes, if known.
    """

    offset: int
    size: int
    inflated: int | None = None
    crc: int | None = None


class Decoded(NamedTuple):
    """A decoded photo: size x size x 3 bytes, the codes (W-IMG-...) of what was changed, and the
    upright photo's width and height.
    """

    pixels: bytes
    warnings: list[str]
    shape: tuple[int, int]


class BadPhoto(Exception):
    """A photo that cannot be used: a stable code and one clause that says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


def decode(path: str, want: Want, span: Span | None = None) -> Decoded:
    """Decode a photo as `want` says. BadPhoto if it cannot be used.

    span: the place of the photo in a shard or an archive; otherwise it is the whole file. The photo
    is turned upright by EXIF, converted to sRGB, composited on the background if it has alpha,
    resized (bicubic, antialiased) with its aspect kept, and fitted.
    """
    data = _read(path, span)
    kind, suffix = recognised(data), PurePath(path).suffix.lower()
    # Most camera raw files are TIFF inside, and Pillow would decode their small preview.
    if kind is None or suffix in RAW:
        raise BadPhoto(*refused(data, suffix))
    try:
        # Pillow's own warnings, for example on EXIF; those that concern pixels are in `notes`.
        with warnings.catch_warnings(action="ignore"):
            return _decode(data, kind, want)
    except BadPhoto:
        raise
    except MemoryError:
        raise BadPhoto("E-IMG-TOO-LARGE", "it needs more memory than a photo may") from None
    except UnidentifiedImageError as error:  # its own text holds an address
        raise BadPhoto(
            "E-IMG-CORRUPT", f"damaged {kind} data: the header cannot be read"
        ) from error
    except Exception as error:  # a decoder may raise anything on a hostile file
        if "truncated" in str(error).lower() and kind != "PNG":
            raise BadPhoto("E-IMG-TRUNCATED", f"the {kind} data ends too early: {error}") from error
        raise BadPhoto(
            "E-IMG-CORRUPT", f"damaged {kind} data: {error or type(error).__name__}"
        ) from error


def _read(path: str, span: Span | None) -> bytes:
    try:
        # NONBLOCK, because opening a pipe must not block
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _refuse_open(error)
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadPhoto("E-IMG-NOT-IMAGE", "not a regular file")
        start, size = (span.offset, span.size) if span else (0, about.st_size)
        if size == 0:
            raise BadPhoto("E-IMG-EMPTY", "the file has 0 bytes")
        if (largest := max(size, (span and span.inflated) or 0)) > MAX_BYTES:
            raise BadPhoto(
                "E-IMG-TOO-LARGE",
                f"{largest >> 20} MiB is more than the limit of {MAX_BYTES >> 20} MiB a file",
            )
        try:
            file.seek(start)
            data = file.read(size)
        except OSError as error:
            raise BadPhoto("E-DATA-READ", f"cannot be read: {error.strerror}") from error
    return data if span is None or span.crc is None else _checked(data, span)


def _checked(data: bytes, span: Span) -> bytes:
    """Return the decompressed bytes of an archive's member. BadPhoto if its CRC-32 is wrong."""
    try:
        if span.inflated is not None:
            data = zlib.decompressobj(-15).decompress(data, span.inflated + 1)
    except zlib.error:
        data = b""
    if zlib.crc32(data) != span.crc:
        raise BadPhoto("E-IMG-CORRUPT", "the archive's checksum says that its data is damaged")
    return data


def _refuse_open(error: OSError) -> NoReturn:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise BadPhoto("E-DATA-GONE", "it vanished after the folder was listed") from error
    if error.errno == errno.ELOOP:
        raise BadPhoto(
            "E-DATA-LINK", "it is a symbolic link; put the photo itself there"
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise BadPhoto("E-DATA-PERM", "no permission to read it") from error
    raise BadPhoto("E-DATA-READ", f"cannot be opened: {error.strerror}") from error


def _decode(data: bytes, kind: str, want: Want) -> Decoded:
    if kind == "WEBP":
        # Pillow's WebP decoder allocates the whole canvas when it opens the header.
        _check_size(webp_size(data), replace(want, min_side=1), kind, len(data))
    chunks = png_chunks.read(data) if kind == "PNG" else None
    if chunks is not None:
        data = chunks.data
    image = _opened(data, kind)
    _check_size(image.size, want, kind, len(data))
    # Pillow turns a TIFF upright while it loads it and drops the tag, so it is read here.
    stored, tags = image.size, getattr(image, "tag_v2", {})
    turned = kind == "TIFF" and tags.get(EXIF_ORIENTATION) in ORIENTATION
    if kind == "JPEG":
        _check_end(data)
        _check_progressive(image)
        # large JPEGs decode at 1/2 to 1/8, never below 4 x the target
        image.draft(None, (ROOM * want.size, ROOM * want.size))
    elif DNG_VERSION in tags:
        raise BadPhoto("E-IMG-FORMAT", "DNG (camera raw) is not accepted; convert to PNG or JPEG")
    image.load()
    width, height = stored if kind == "JPEG" else image.size
    notes: list[str] = []
    profile = _profile(image, chunks, notes)
    pixels = _flat(image, data, kind, tags, notes)
    if (turn := _turn(image)) is not None:
        turned, pixels = True, pixels.transpose(turn)
        if turn in SIDEWAYS:
            width, height = height, width
    if turned:
        notes.insert(0, "W-IMG-TURNED")
    pixels, size = reduced(pixels, want)
    rgb = _to_rgb(pixels, profile, want, notes)
    if getattr(image, "n_frames", 1) > 1:  # asked last: on TIFF and MPO it walks through the file
        notes.append("W-IMG-FRAMES")
    return Decoded(FITS[want.fit](rgb, size, want).tobytes(), notes, (width, height))


def _opened(data: bytes, kind: str) -> Image.Image:
    if kind == "AVIF" and not features.check("avif"):
        raise BadPhoto(
            "E-IMG-FORMAT",
            "this Pillow reads no AVIF; pip install 'pillow>=11.3', or convert to PNG or JPEG",
        )
    if kind == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoders run side by side, and in little memory
    if kind == "HEIF" and not _reads_heic():
        raise BadPhoto(
            "E-IMG-FORMAT",
            "HEIC needs pillow-heif, pip install 'edgegen[heic]'; or convert to JPEG "
            "(`heif-convert in.heic out.jpg`)",
        )
    return Image.open(io.BytesIO(data), formats=[kind])


@cache
def _reads_heic() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def _check_size(size: tuple[int, int], want: Want, kind: str, count: int) -> None:
    width, height = size
    most = MAX_DRAFT_PIXELS if kind == "JPEG" else MAX_PIXELS
    if want.max_megapixels is not None:
        most = want.max_megapixels * 10**6
    pixels = width * height
    is_bomb = pixels > MAX_PIXELS and pixels > DENSEST * count
    if pixels > most:
        needed = -(-pixels // 10**6)
        more = f"; photos check, train and finetune read it with --max-megapixels {needed}"
        raise BadPhoto(
            "E-IMG-TOO-LARGE",
            f"{width}x{height} is {pixels / 1e6:.0f} MP, more than the limit of "
            f"{most // 10**6} MP{'' if is_bomb or needed > MOST_MEGAPIXELS else more}",
        )
    if is_bomb:
        raise BadPhoto(
            "E-IMG-TOO-LARGE", f"{width}x{height} is {pixels / 1e6:.0f} MP in {count} bytes: a bomb"
        )
    if min(width, height) < want.min_side:
        raise BadPhoto(
            "E-IMG-TOO-SMALL",
            f"{width}x{height} pixels; the shorter side must have at least {want.min_side}",
        )


def _check_progressive(image: Image.Image) -> None:
    """Raise BadPhoto for a progressive JPEG that needs more memory than this process may take.

    At any decoding size all of it is held, with two bytes per sample, and without memory libjpeg
    would call it damaged.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    layers = [(layer[1], layer[2]) for layer in getattr(image, "layer", ())]
    if most == resource.RLIM_INFINITY or not layers or not image.info.get("progressive"):
        return
    across, down = (max(side) for side in zip(*layers, strict=True))
    samples = sum(a * b for a, b in layers) * image.width * image.height / (across * down)
    with open("/proc/self/statm", "rb") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    if 2 * samples > ROOM_LEFT * (most - taken):
        raise BadPhoto(
            "E-IMG-TOO-LARGE",
            f"this progressive JPEG of {image.width}x{image.height} is held whole while it is "
            f"decoded, {2 * samples / 1e6:.0f} MB, and {max(0, most - taken) / 1e6:.0f} MB are "
            "left; save it as baseline JPEG (`jpegtran -outfile new.jpg old.jpg`)",
        )


def _check_end(data: bytes) -> None:
    """Raise BadPhoto unless the JPEG has its end marker, because libjpeg silently fills missing
    data with grey. The end marker of an EXIF thumbnail does not count.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x01, 0xD8, 0xFF):  # fill bytes, marks without data
            at += 1
            continue
        if data[at + 1] == 0xDA:  # the image data follows
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.rfind(END) <= at:
        raise BadPhoto("E-IMG-TRUNCATED", "the JPEG data ends too early: its end marker is missing")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return ORIENTATION.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF beside sound pixels: the photo counts as upright
        return None


def _profile(
    image: Image.Image, chunks: png_chunks.Chunks | None, notes: list[str]
) -> bytes | None:
    """Return the ICC profile that describes the photo's colours; None for sRGB."""
    if chunks is not None:
        if chunks.unusable:
            notes.append("W-IMG-PROFILE")
        return colour.of_png(chunks)
    if profile := image.info.get("icc_profile"):
        return bytes(profile)
    try:
        if image.getexif().get_ifd(INTEROP_IFD).get(INTEROP_INDEX) == "R03":
            return colour.adobe_rgb()
    except Exception:  # damaged EXIF beside sound pixels
        return None
    return None


def _flat(image: Image.Image, data: bytes, kind: str, tags: Tags, notes: list[str]) -> Image.Image:
    """Return the image in 8 bits and without a palette."""
    if is_deep(image, data, kind, tags):
        notes.append("W-IMG-DEPTH")
        # The transparent colour has 16 bits, but Pillow kept only 8 of each pixel.
        if "transparency" in image.info:
            raise BadPhoto(
                "E-IMG-FORMAT",
                "16-bit pixels with a transparent colour are not accepted; save with an alpha "
                "channel",
            )
        image = in_8_bits(image, data, kind, tags, notes)
    if image.mode in ("P", "PA"):
        notes.append("W-IMG-PALETTE")
    if image.mode in ALPHA or "transparency" in image.info:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode not in PLAIN and image.mode != "CMYK":
        raise BadPhoto(
            "E-IMG-FORMAT",
            f"pixels of type {image.mode} are not accepted; convert to 8-bit or 16-bit PNG",
        )
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_rgb(image: Image.Image, profile: bytes | None, want: Want, notes: list[str]) -> Image.Image:
    """Return the image as RGB in sRGB, composited on the background."""
    if image.mode == "CMYK":
        notes.append("W-IMG-CMYK")
        # Without a usable profile, the warning asks the user to check the colours.
        return (profile and colour.to_srgb(image, profile)) or image.convert("RGB")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    opaque = image if alpha is None else image.convert("RGB")
    if profile is not None:
        opaque = _in_srgb(opaque, profile, notes)
    opaque = opaque.convert("RGB")
    if alpha is None or alpha.getextrema() == (255, 255):
        return opaque
    notes.append("W-IMG-ALPHA")
    seen = opaque.copy()
    seen.putalpha(alpha)
    under = Image.new("RGBA", seen.size, (*want.background, 255))
    return Image.alpha_composite(under, seen).convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    converted = colour.to_srgb(image, profile)
    if converted is None and image.mode == "L":  # grey, with a profile for colours
        converted = colour.to_srgb(image.convert("RGB"), profile)
    if converted is None:
        notes.append("W-IMG-PROFILE")
        return image
    return converted
