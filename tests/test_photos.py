"""What is accepted of a photo: five formats, any usual kind of pixels; what was changed is counted,
the first frame is used.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import chunk, encoded, picture
from PIL import Image, ImageCms

from edgegen.training.data import BadPhotos, load
from edgegen.training.photos import ORIENTATION, BadPhoto, Want, decode
from edgegen.training.reading import PhotoReading

WANT = Want(32, (255, 255, 255), 16)
LZW, LOSSLESS = {"compression": "tiff_lzw"}, {"lossless": True}


def pixels(path: Path, want: Want = WANT) -> tuple[np.ndarray, list[str]]:
    data, warnings, _ = decode(str(path), want)
    return np.frombuffer(data, np.uint8).reshape(want.size, want.size, 3), warnings


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG", picture()))
    assert (
        pixels(tmp_path / "a.jpg")[1] == []
        and (pixels(tmp_path / "a.jpg")[0] == pixels(tmp_path / "b.png")[0]).all()
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", LZW),
        ("WEBP", LOSSLESS),
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("JPEG", {"quality": 98, "subsampling": 0, "progressive": True}),
    ],
)
def test_the_five_formats_give_the_same_pixels(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    picture().save(tmp_path / "reference.png")
    (tmp_path / "x").write_bytes(
        encoded(kind, picture(), **options) + b"trailing bytes of a camera"
    )
    found, warnings = pixels(tmp_path / "x")
    off = np.abs(found.astype(int) - pixels(tmp_path / "reference.png")[0]).max()
    assert warnings == [] and off <= (6 if kind == "JPEG" else 0)


def test_cmyk_is_converted_and_counted(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (200, 60, 30)).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    found, warnings = pixels(tmp_path / "a.jpg")
    assert warnings == ["W-IMG-CMYK"] and np.abs(found.astype(int) - (200, 60, 30)).max() <= 6
    Image.new("CMYK", (40, 40), (0, 200, 200, 30)).save(
        tmp_path / "b.jpg", icc_profile=b"no profile"
    )
    assert pixels(tmp_path / "b.jpg")[1] == ["W-IMG-CMYK"]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("CMYK", (40, 40), (0, 200, 200, 30)).save(tmp_path / "c.jpg", icc_profile=srgb)
    assert (pixels(tmp_path / "c.jpg")[0] == pixels(tmp_path / "b.jpg")[0]).all(), (
        "a profile for RGB cannot be used on CMYK"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_alpha_is_composited_on_the_background(tmp_path: Path, mode: str) -> None:
    base = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    base.paste((0, 0, 0, 255), (0, 0, 20, 40))
    if mode == "P":
        palette = Image.new("P", (40, 40), 1)
        palette.putpalette([0, 0, 0, 90, 90, 90])
        palette.paste(0, (0, 0, 20, 40))
        palette.save(tmp_path / "a.png", transparency=1)
    elif mode == "L":
        grey = Image.new("L", (40, 40), 90)
        grey.paste(0, (0, 0, 20, 40))
        grey.save(tmp_path / "a.png", transparency=90)
    else:
        base.convert(mode).save(tmp_path / "a.png")
    found, warnings = pixels(tmp_path / "a.png", Want(40, (0, 128, 255), 16))
    assert warnings == ["W-IMG-PALETTE"] * (mode == "P") + ["W-IMG-ALPHA"]
    assert (found[:, :20] == 0).all() and (found[:, 20:] == (0, 128, 255)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_opaque_pixels_of_any_kind_need_no_warning(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (40, 40), "white").convert(mode).save(tmp_path / "a.png")
    found, warnings = pixels(tmp_path / "a.png", Want(32, (0, 0, 0), 16))
    assert warnings == ["W-IMG-PALETTE"] * (mode == "P") and (found == 255).all()


RAMP = np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2


def png16(color: int, channels: int, *chunks: bytes) -> bytes:
    """The ramp in each channel, alpha full; color: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and
    alpha.
    """
    levels = np.repeat(RAMP[..., None], channels, 2)
    if color & 4:
        levels[..., -1] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, color, 0, 0, 0))
        + b"".join(chunks)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(order: str, meaning: int, channels: int, bits: int = 16) -> bytes:
    """The ramp's upper `bits` in each channel, uncompressed; order: < or >; meaning:
    PhotometricInterpretation.
    """
    levels = np.repeat(RAMP[..., None] >> 16 - bits, channels, 2)
    data = levels.astype(order + "u2").tobytes()
    if bits == 12:  # two levels in three bytes
        a, b = levels.reshape(-1, 2).T.astype(np.uint32)
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    tags = {
        256: 40,
        257: 40,
        258: bits,
        259: 1,
        262: meaning,
        273: 1000,
        277: channels,
        278: 40,
        279: len(data),
    }
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    for tag, value in tags.items():
        head += struct.pack(
            order + "HHII",
            tag,
            4,
            *((channels, 900) if tag == 258 and channels > 1 else (1, value)),
        )
    return (
        head.ljust(900, b"\0")
        + (struct.pack(order + "I", bits) * channels).ljust(100, b"\0")
        + data
    )


DEEP = {
    "grey PNG": (png16(0, 1), 0.51),
    "RGB PNG": (png16(2, 3), 1.0),
    "grey and alpha": (png16(4, 2), 1.0),
    "RGB and alpha": (png16(6, 4), 1.0),
    "grey TIFF": (tiff("<", BLACK_IS_ZERO, 1), 0.51),
    "big-endian TIFF": (tiff(">", BLACK_IS_ZERO, 1), 0.51),
    "RGB TIFF": (tiff("<", RGB, 3), 1.0),
    "big-endian RGB TIFF": (tiff(">", RGB, 3), 1.0),
    "12 bits": (tiff("<", BLACK_IS_ZERO, 1, 12), 0.57),
    "negative": (tiff("<", WHITE_IS_ZERO, 1), 0.51),
}


@pytest.mark.parametrize("case", DEEP)
def test_more_than_8_bits_are_scaled_and_counted(tmp_path: Path, case: str) -> None:
    """To the nearest of 256 levels, or to the one below where Pillow keeps the upper 8 bits: never
    clipped.
    """
    data, off = DEEP[case]
    (tmp_path / "a").write_bytes(data)
    found, warnings = pixels(tmp_path / "a", Want(40, (0, 0, 0), 16))
    expected = RAMP / 257 if case != "negative" else 255 - RAMP / 257
    assert warnings == ["W-IMG-DEPTH"] and np.abs(found - expected[..., None]).max() <= off


@pytest.mark.parametrize("color", [0, 2])
def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path, color: int) -> None:
    """Pillow compares it with the upper 8 bits of each pixel: other colours would disappear."""
    channels = 1 if color == 0 else 3
    (tmp_path / "a").write_bytes(
        png16(color, channels, chunk(b"tRNS", struct.pack(">H", 41) * channels))
    )
    with pytest.raises(
        BadPhoto,
        match="E-IMG-FORMAT 16-bit pixels with a transparent colour are not accepted; save with",
    ):
        decode(str(tmp_path / "a"), WANT)


@pytest.mark.parametrize(
    ("kind", "options", "orientation"),
    [
        (kind, options, orientation)
        for kind, options in (("PNG", {}), ("TIFF", {}), ("TIFF", LZW), ("WEBP", LOSSLESS))
        # which libtiff does not write
        for orientation in (1, 2, 3, 4, 5, 6, 7, 8, 99)
        if options is not LZW or orientation != 99
    ],
)
def test_exif_orientation_is_applied_once(
    tmp_path: Path, kind: str, options: dict[str, Any], orientation: int
) -> None:
    upright, exif = picture(5, 32, 32), Image.Exif()
    exif[274] = orientation
    undo = {**ORIENTATION, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.get(
        orientation
    )
    stored = upright if undo is None else upright.transpose(undo)
    (tmp_path / "a").write_bytes(encoded(kind, stored, exif=exif, **options))
    found, warnings = pixels(tmp_path / "a")
    assert (found == np.asarray(upright)).all() and warnings == ["W-IMG-TURNED"] * (
        orientation not in (1, 99)
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_shape_is_that_of_the_upright_photo(tmp_path: Path, kind: str) -> None:
    """Also of a JPEG that was decoded smaller than it is."""
    for orientation, shape in ((1, (801, 600)), (3, (801, 600)), (6, (600, 801)), (5, (600, 801))):
        exif = Image.Exif()
        exif[274] = orientation
        (tmp_path / "a").write_bytes(encoded(kind, picture(5, 801, 600), exif=exif))
        assert decode(str(tmp_path / "a"), WANT).shape == shape


def test_damaged_exif_does_not_cost_the_photo(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(
        encoded("JPEG", picture(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    )
    (tmp_path / "b.jpg").write_bytes(encoded("JPEG", picture()))
    assert (pixels(tmp_path / "a.jpg")[0] == pixels(tmp_path / "b.jpg")[0]).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_used_and_counted(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
    found, warnings = pixels(tmp_path / "a")
    assert warnings == ["W-IMG-FRAMES"] and (np.abs(found.astype(int) - (255, 0, 0)) <= 4).all()


def test_warnings_are_counted_by_code(tmp_path: Path) -> None:
    for k in range(3):
        image = picture(k).convert("RGBA")
        image.putalpha(128)
        image.save(tmp_path / f"{k}.png")
    report = load(tmp_path, 32)[1]
    assert report.warnings == {"W-IMG-ALPHA": ("0.png", "1.png", "2.png")} and report.to_json()[
        "counts"
    ] == {"W-IMG-ALPHA": 3}


def test_min_side_is_a_setting(tmp_path: Path) -> None:
    for k in range(2):
        picture(k, 20, 20).save(tmp_path / f"{k}.png")
    assert len(load(tmp_path, 32)[0]) == 2
    with pytest.raises(BadPhotos, match="20x20 pixels; the shorter side must have at least 64"):
        load(tmp_path, 32, PhotoReading(min_side=64))
