"""What a photo's numbers mean: profiles, gamma, depth, and the formats and sizes that are read."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import chunk, encoded, picture
from colours import SPACES, delta_e, levels_in, linear, profile_of
from photo_folders import several, write
from PIL import Image, ImageCms

from edgegen.training import colour, square, worker
from edgegen.training.data import load
from edgegen.training.photos import BadPhoto, Fit, Want, decode
from edgegen.training.worker import DecoderProcess

WANT = Want(32, (255, 255, 255), 16)
RED = (200, 40, 45)
OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "TIFF": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def pixels(path: Path, want: Want = WANT) -> tuple[np.ndarray, list[str]]:
    data, warnings, _ = decode(str(path), want)
    return np.frombuffer(data, np.uint8).reshape(want.size, want.size, 3), warnings


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profiles_of_rgb_photos_are_applied(tmp_path: Path, space: str, kind: str) -> None:
    image = Image.new("RGB", (40, 40), levels_in(space, RED))
    image.save(tmp_path / "a", kind, icc_profile=profile_of(space), **OPTIONS[kind])
    found, warnings = pixels(tmp_path / "a")
    assert delta_e(found, np.array(RED)) <= 1.5 and warnings == []
    image.save(tmp_path / "b", kind, **OPTIONS[kind])
    assert delta_e(pixels(tmp_path / "b")[0], np.array(RED)) > 5, "the test itself"


def png(rgb: tuple[int, ...], *chunks: bytes) -> bytes:
    """40 x 40 pixels of one colour, with chunks before them."""
    rows = b"".join(b"\0" + bytes(rgb) * 40 for _ in range(40))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def primaries(*values: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def test_gamma_and_primaries_of_a_png_are_honoured(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    light = tuple(int(v) for v in np.rint(255 * linear(np.array(RED))))
    path.write_bytes(png(light, gamma(1.0)))
    assert delta_e(pixels(path)[0], np.array(RED)) <= 1.5
    adobe = primaries(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    path.write_bytes(png(levels_in("Adobe RGB", RED), gamma(256 / 563), adobe))
    assert delta_e(pixels(path)[0], np.array(RED)) <= 1.5
    plain = png(RED)
    for chunks in (
        (gamma(0.45455),),
        (chunk(b"sRGB", b"\0"), gamma(1.0)),
        (primaries(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06), gamma(0.45455)),
        (gamma(0.0),),
    ):
        path.write_bytes(png(RED, *chunks))
        assert (pixels(path)[0] == np.array(RED)).all(), "that is sRGB"
    path.write_bytes(plain)
    assert (pixels(path)[0] == np.array(RED)).all()


@pytest.mark.parametrize("values", [(0.3,) * 8, (0.31, 0.33, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3)])
def test_primaries_that_span_no_colours_cost_no_photo(
    tmp_path: Path, values: tuple[float, ...]
) -> None:
    (path := tmp_path / "a.png").write_bytes(png(RED, gamma(1 / 2.2), primaries(*values)))
    assert delta_e(pixels(path)[0], np.array(RED)) < 0.01


def test_a_profile_that_is_srgb_changes_no_number(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture(3).save(tmp_path / "a.png", icc_profile=srgb)
    picture(3).save(tmp_path / "b.png")
    assert (pixels(tmp_path / "a.png")[0] == pixels(tmp_path / "b.png")[0]).all()
    assert colour._transform(srgb, "RGB") == "same"


@pytest.mark.parametrize("space", SPACES)
def test_our_own_profiles_are_those_of_the_books(space: str) -> None:
    """What is built of primaries agrees with what was published under D50."""
    xy = {
        "Adobe RGB": colour.ADOBE_PRIMARIES,
        "Display P3": (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
        "ProPhoto": (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001),
    }[space]
    made = np.array(colour._adapted(xy)).T
    assert np.abs(made - SPACES[space][0]).max() < 0.003


def test_profiles_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    picture(3).save(tmp_path / "plain.png")
    plain = pixels(tmp_path / "plain.png")[0]
    for name, profile in (("none", b"no profile"), ("long", bytes(5 << 20))):
        for kind in ("PNG", "TIFF"):
            picture(3).save(tmp_path / name, kind, icc_profile=profile)
            found, warnings = pixels(tmp_path / name)
            assert warnings == ["W-IMG-PROFILE"] and (found == plain).all()
    grey = picture(3).convert("L")
    grey.save(tmp_path / "grey.png", icc_profile=profile_of("Adobe RGB"))
    assert pixels(tmp_path / "grey.png")[1] == [], "a grey photo may have a profile for colours"


def test_colour_survives_transparency_and_reducing(tmp_path: Path) -> None:
    """12 MP are reduced before anything else: what can be seen weighs, what cannot does not."""
    image = Image.new("RGBA", (1600, 1200), (*levels_in("ProPhoto", RED), 255))
    image.paste((0, 255, 0, 0), (0, 0, 800, 1200))
    image.save(tmp_path / "a.png", icc_profile=profile_of("ProPhoto"), compress_level=1)
    found, warnings = pixels(tmp_path / "a.png", Want(32, (0, 0, 255), 16, "crop"))
    assert warnings == ["W-IMG-ALPHA"] and (found[:, :15] == (0, 0, 255)).all()
    assert delta_e(found[:, 18:], np.array(RED)) <= 1.5
    edge = found[:, 15:17].astype(int)
    assert (edge[..., 1] <= 60).all(), "the green that nobody sees"


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_large_photos_are_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Fit
) -> None:
    """Reduced and then resized is resized, for odd sizes too."""
    want = Want(32, (255, 255, 255), 16, fit)
    picture(5, 1531, 1117).save(tmp_path / "a.png", compress_level=1)
    found = pixels(tmp_path / "a.png", want)[0].astype(int)
    monkeypatch.setattr("edgegen.training.square.REDUCED", 10**9)
    assert np.abs(found - pixels(tmp_path / "a.png", want)[0]).max() <= 3


# cameras that say Adobe RGB by a letter


def test_the_letter_of_cameras_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    image = Image.new("RGB", (40, 40), levels_in("Adobe RGB", RED))
    image.save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    with Image.open(tmp_path / "a.jpg") as written:
        assert written.getexif().get_ifd(0xA005)[1] == "R03", "the test itself"
    assert delta_e(pixels(tmp_path / "a.jpg")[0], np.array(RED)) <= 1.5


# depth


def ramp(top: int) -> np.ndarray:
    return np.linspace(0, top, 1600).round().astype(np.uint16).reshape(40, 40)


def deep_png(levels: np.ndarray) -> bytes:
    """Grey (h, w) or colour (h, w, 3) of 16 bits."""
    color = 0 if levels.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


@pytest.mark.parametrize("channels", [1, 3])
def test_12_bits_in_a_file_of_16_are_no_night(tmp_path: Path, channels: int) -> None:
    levels = ramp(4095) if channels == 1 else np.repeat(ramp(4095)[..., None], 3, 2)
    (tmp_path / "a.png").write_bytes(deep_png(levels))
    found, warnings = pixels(tmp_path / "a.png", Want(40, (0, 0, 0), 16))
    expected = np.repeat((ramp(4095) / 4095 * 255)[..., None], 3, 2)
    assert warnings == ["W-IMG-DEPTH", "W-IMG-BITS"]
    assert np.abs(found - expected).max() <= 1.1
    full = ramp(65535) if channels == 1 else np.repeat(ramp(65535)[..., None], 3, 2)
    (tmp_path / "a.png").write_bytes(deep_png(full))
    assert pixels(tmp_path / "a.png")[1] == ["W-IMG-DEPTH"]


def test_sets_that_are_black_or_white_are_said(tmp_path: Path) -> None:
    for name, low in (("dark", 0), ("bright", 240)):
        for k in range(6):
            rng = np.random.default_rng(k)
            levels = rng.integers(low, low + 14, (20, 30, 3), np.uint8)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(levels).save(tmp_path / name / f"{k}.png")
    dark, bright = (load(tmp_path / name, 32)[1].warnings for name in ("dark", "bright"))
    assert list(dark) == ["W-DATA-DARK"] and len(dark["W-DATA-DARK"]) == 6
    assert list(bright) == ["W-DATA-BRIGHT"], "the padding around them does not count"
    picture(9).save(tmp_path / "dark" / "x.png")
    for k in range(6):
        picture(k).save(tmp_path / "dark" / f"y{k}.png")
    assert load(tmp_path / "dark", 32)[1].warnings == {}, "some dark photos are no dark set"


# text, formats, sizes


def test_text_and_profiles_of_any_size_are_no_damage(tmp_path: Path) -> None:
    text = chunk(b"tEXt", b"parameters\0" + b"x" * (2 << 20))
    packed = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"y" * (3 << 20)))
    large = chunk(b"iCCP", b"large\0\0" + zlib.compress(profile_of("ProPhoto") + bytes(1500 << 10)))
    (tmp_path / "a.png").write_bytes(png(RED, text, packed))
    assert (pixels(tmp_path / "a.png")[0] == np.array(RED)).all()
    assert pixels(tmp_path / "a.png")[1] == []
    (tmp_path / "a.png").write_bytes(png(levels_in("ProPhoto", RED), large))
    assert delta_e(pixels(tmp_path / "a.png")[0], np.array(RED)) <= 1.5
    cut = chunk(b"iCCP", b"long\0\0" + zlib.compress(profile_of("ProPhoto") + bytes(5 << 20)))
    (tmp_path / "a.png").write_bytes(png(RED, cut))
    found, warnings = pixels(tmp_path / "a.png")
    assert warnings == ["W-IMG-PROFILE"] and (found == np.array(RED)).all(), "no part of it is used"
    bomb = chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(64 << 20), 9))
    (tmp_path / "a.png").write_bytes(png(RED, bomb))
    assert pixels(tmp_path / "a.png")[1] == ["W-IMG-PROFILE"]


def test_a_turn_that_xmp_says_survives_the_text(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    note = chunk(b"tEXt", b"a\0b")
    (tmp_path / "a.png").write_bytes(png(RED, note, text))
    assert pixels(tmp_path / "a.png")[1] == ["W-IMG-TURNED"]


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_are_read(tmp_path: Path, kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    picture(4, 128, 96).save(tmp_path / "a.jpg", kind, quality=95)
    picture(4, 128, 96).save(tmp_path / "b.png")
    with DecoderProcess(WANT) as decoder:
        data, warnings, shape = decoder(str(tmp_path / "a.jpg"))
    found = np.frombuffer(data, np.uint8).reshape(32, 32, 3).astype(int)
    assert warnings == [] and shape == (128, 96)
    assert np.abs(found - pixels(tmp_path / "b.png")[0]).mean() < 4


def test_without_their_plugins_they_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegen.training.photos._reads_heic", lambda: False)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    for brand, words in ((b"heic", "pip install 'edgegen[heic]'"), (b"avif", "pillow>=11.3")):
        (tmp_path / "a").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(12))
        with pytest.raises(BadPhoto, match="E-IMG-FORMAT") as caught:
            decode(str(tmp_path / "a"), WANT)
        assert words in caught.value.reason


def test_a_large_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an eighth of its size, and never below four times what is wanted."""
    decoded: list[tuple[int, int]] = []

    def noted(image: Image.Image, want: Want) -> tuple[Image.Image, tuple[float, float]]:
        decoded.append(image.size)
        return square.reduced(image, want)

    monkeypatch.setattr("edgegen.training.photos.reduced", noted)
    picture(6, 1600, 1200).save(tmp_path / "a.jpg", quality=90)
    for size in (32, 100):
        assert decode(str(tmp_path / "a.jpg"), Want(size, (0, 0, 0), 16)).shape == (1600, 1200)
    assert decoded == [(200, 150), (800, 600)]


def test_a_phone_s_108_mp_are_read_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own, so that its peak is the decoder's."""
    Image.new("L", (12_000, 9_000), 90).save(tmp_path / "a.jpg", quality=90)
    code = (
        "import re, sys; from edgegen.training.photos import *; from PIL import Image; "
        "Image.MAX_IMAGE_PIXELS = None; "
        "found = decode(sys.argv[1], Want(32, (0, 0, 0), 16)); "
        "print(*found.shape, found.pixels[3 * 528], "
        "int(re.search('VmHWM:[^0-9]*([0-9]+)', open('/proc/self/status').read())[1]) >> 10)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    width, height, level, peak = map(int, done.stdout.split())
    assert (width, height, level) == (12_000, 9_000, 90) and peak <= 400, f"{peak} MiB"


def test_a_lower_limit_on_memory_stays(tmp_path: Path) -> None:
    """A decoder takes its own limit only where the user's is none or higher."""
    picture().save(tmp_path / "a.png")
    code = (
        "import resource, sys; from edgegen.training.worker import *; "
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)); "
        "decoder = DecoderProcess(Want(32, (0, 0, 0), 16)); decoder(sys.argv[1]); "
        "print(resource.prlimit(decoder._child.pid, resource.RLIMIT_AS)[0]); decoder._stop()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 << 30 < worker.MEMORY


def test_it_looks_for_the_end_from_the_end(tmp_path: Path) -> None:
    """An end marker in a thumbnail, or in a comment, is none of the photo."""
    data = encoded("JPEG", picture(2, 640, 480), comment=b"\xff\xd9" * 20)
    (tmp_path / "a.jpg").write_bytes(data)
    assert pixels(tmp_path / "a.jpg")[1] == []
    (tmp_path / "a.jpg").write_bytes(data[:-2])
    with pytest.raises(BadPhoto, match="E-IMG-TRUNCATED"):
        decode(str(tmp_path / "a.jpg"), WANT)


def test_the_set_s_photos_meet_all_of_it(tmp_path: Path) -> None:
    for k in range(3):
        image = Image.new("RGB", (40, 40), levels_in("Display P3", (200 - k, 40 + 30 * k, 45)))
        (tmp_path / "p").mkdir(exist_ok=True)
        image.paste((0, 0, 0), (0, 0, 5, 5 + k))
        image.save(tmp_path / "p" / f"{k}.png", icc_profile=profile_of("Display P3"))
    photos, report = load(write(tmp_path / "p", several("x{}.png", 1)), 32)
    assert report.warnings == {} and delta_e(photos.pixels[0][20, 20], np.array(RED)) <= 1.5
