"""One photo file of unknown origin becomes size x size RGB pixels, or a code and a reason.

No numpy here: worker.py runs this in a child process with a memory limit, because the file meets
native decoders.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, NamedTuple, NoReturn

from PIL import Image, ImageCms, UnidentifiedImageError

from .magic import RAW, recognised, refused, webp_size

MAX_PIXELS = 64_000_000
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
DNG_VERSION, EXIF_ORIENTATION, BITS, PHOTOMETRIC = 50706, 274, 258, 262
Fit = Literal["pad", "crop"]
Tags = Mapping[int, Any]  # of TIFF, by number: each has its own type
JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True)
class Want:
    """What every photo becomes: size in pixels, background (r, g, b); shorter side of the file at
    least min_side pixels.

    fit: of a photo that is not square, "pad" keeps all, centred on the background, and "crop" keeps
    the centred square.
    """

    size: int
    background: tuple[int, int, int]
    min_side: int
    fit: Fit = "pad"


class Decoded(NamedTuple):
    """size x size x 3 bytes, the codes of what was changed on the way (W-IMG-...), and the upright
    photo's width and height.
    """

    pixels: bytes
    warnings: list[str]
    shape: tuple[int, int]


class BadPhoto(Exception):
    """A photo that cannot be used: a stable code and one clause that says why."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code, self.reason = code, reason


def decode(path: str, want: Want, span: tuple[int, int] | None = None) -> Decoded:
    """The photo as `want` says, or BadPhoto.

    span: offset and length of the photo within the file, which is then a tar shard; else the photo
    is the whole file. Upright by EXIF, alpha composited on the background, resized (bicubic,
    antialiased) with its aspect kept, fitted.
    """
    data = _read(path, span)
    kind, suffix = recognised(data), PurePath(path).suffix.lower()
    # most camera raw is TIFF inside: Pillow would take its small preview for the photo
    if kind is None or suffix in RAW:
        raise BadPhoto(*refused(data, suffix))
    try:
        # Pillow's, on EXIF and such: what matters to pixels is counted
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


def _read(path: str, span: tuple[int, int] | None) -> bytes:
    try:
        # NONBLOCK: a fifo must not hang us
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        _refuse_open(error)
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise BadPhoto("E-IMG-NOT-IMAGE", "not a regular file")
        start, size = span or (0, about.st_size)
        if size == 0:
            raise BadPhoto("E-IMG-EMPTY", "the file has 0 bytes")
        if size > MAX_BYTES:
            raise BadPhoto(
                "E-IMG-TOO-LARGE",
                f"{size >> 20} MiB is more than the limit of {MAX_BYTES >> 20} MiB a file",
            )
        try:
            file.seek(start)
            return file.read(size if span else MAX_BYTES)
        except OSError as error:
            raise BadPhoto("E-DATA-READ", f"cannot be read: {error.strerror}") from error


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
        # its decoder allocates the canvas when the header is opened
        _check_size(webp_size(data), 1)
    image = Image.open(io.BytesIO(data), formats=[kind])
    _check_size(image.size, want.min_side)
    # tags: of TIFF; Pillow turns it while it loads, and forgets that
    stored, tags = image.size, getattr(image, "tag_v2", {})
    turned = kind == "TIFF" and tags.get(EXIF_ORIENTATION) in ORIENTATION
    if kind == "JPEG":
        _check_end(data)
        # large JPEGs decode at 1/2 to 1/8, never below 4 x the target
        image.draft(None, (4 * want.size, 4 * want.size))
    elif DNG_VERSION in tags:
        raise BadPhoto("E-IMG-FORMAT", "DNG (camera raw) is not accepted; convert to PNG or JPEG")
    image.load()
    width, height = stored if kind == "JPEG" else image.size
    if (turn := _turn(image)) is not None:
        turned, upright = True, image.transpose(turn)
        if turn in SIDEWAYS:
            width, height = height, width
    else:
        upright = image
    notes = ["W-IMG-TURNED"] if turned else []
    if _is_deep(image, data, kind, tags):
        notes.append("W-IMG-DEPTH")
        # a colour of 16 bits, and Pillow has kept 8 of each pixel's
        if "transparency" in image.info:
            raise BadPhoto(
                "E-IMG-FORMAT",
                "16-bit pixels with a transparent colour are not accepted; save with an alpha "
                "channel",
            )
    rgb = (
        _from_grey16(upright, tags)
        if image.mode.startswith("I;16")
        else _to_rgb(upright, image, want, notes)
    )
    if getattr(image, "n_frames", 1) > 1:  # asked last: on TIFF and MPO it walks through the file
        notes.append("W-IMG-FRAMES")
    return Decoded(FITS[want.fit](rgb, want).tobytes(), notes, (width, height))


def _check_size(size: tuple[int, int], min_side: int) -> None:
    width, height = size
    if (pixels := width * height) > MAX_PIXELS:
        limit = MAX_PIXELS // 10**6
        raise BadPhoto(
            "E-IMG-TOO-LARGE",
            f"{width}x{height} is {pixels / 1e6:.0f} MP, more than the limit of {limit} MP",
        )
    if min(width, height) < min_side:
        raise BadPhoto(
            "E-IMG-TOO-SMALL",
            f"{width}x{height} pixels; the shorter side must have at least {min_side}",
        )


def _check_end(data: bytes) -> None:
    """BadPhoto unless the JPEG's own end marker is there: libjpeg fills what is missing with grey
    and says nothing.
    """
    at = 2
    while match := JPEG_MARKER.search(data, at):
        marker, at = match[0][1], match.end()
        if marker == 0xD9:
            return
        if marker not in (0x01, 0xD8):
            # skip the segment: an EXIF thumbnail has an end marker of its own
            at += int.from_bytes(data[at : at + 2], "big")
    raise BadPhoto("E-IMG-TRUNCATED", "the JPEG data ends too early: its end marker is missing")


def _is_deep(image: Image.Image, data: bytes, kind: str, tags: Tags) -> bool:
    """Has it more than 8 bits a channel? Pillow keeps them of grey alone, of others the upper 8."""
    return (
        image.mode.startswith("I;16")
        or (kind == "PNG" and data[24] == 16)
        or max(tags.get(BITS, (8,))) > 8
    )


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return ORIENTATION.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # damaged EXIF beside sound pixels: the photo counts as upright
        return None


def _from_grey16(image: Image.Image, tags: Tags) -> Image.Image:
    """12 or 16 bits scaled to 8, rounded; TIFF may say that 0 is white (TIFF 6.0,
    PhotometricInterpretation).
    """
    scale = 255 / (2 ** max(tags.get(BITS, (16,))) - 1)
    slope, start = (-scale, 255) if tags.get(PHOTOMETRIC) == 0 else (scale, 0)
    return (
        image.convert("I")
        .point(lambda level: level * slope + (start + 0.5))
        .convert("L")
        .convert("RGB")
    )


def _to_rgb(image: Image.Image, opened: Image.Image, want: Want, notes: list[str]) -> Image.Image:
    if image.mode == "CMYK":
        notes.append("W-IMG-CMYK")
        return _from_cmyk(image, opened.info.get("icc_profile"))
    if image.mode in ("P", "PA"):
        notes.append("W-IMG-PALETTE")
    if image.mode in ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            notes.append("W-IMG-ALPHA")
        return Image.alpha_composite(
            Image.new("RGBA", rgba.size, (*want.background, 255)), rgba
        ).convert("RGB")
    if image.mode not in PLAIN:
        raise BadPhoto(
            "E-IMG-FORMAT",
            f"pixels of type {image.mode} are not accepted; convert to 8-bit or 16-bit PNG",
        )
    return image.convert("RGB")


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            # an unusable profile; W-IMG-CMYK tells the user to look at the colours either way
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _pad(image: Image.Image, want: Want) -> Image.Image:
    scale = want.size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    out = Image.new("RGB", (want.size, want.size), want.background)
    out.paste(
        image.resize((width, height), Image.Resampling.BICUBIC),
        ((want.size - width) // 2, (want.size - height) // 2),
    )
    return out


def _crop(image: Image.Image, want: Want) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side)).resize(
        (want.size, want.size), Image.Resampling.BICUBIC
    )


FITS = {"pad": _pad, "crop": _crop}
