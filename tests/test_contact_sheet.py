"""The contact sheet of `edgegen photos check`: what it shows, how large it is, and what it does not
give away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bad_photos import encoded, picture
from datasets import SAMPLE
from PIL import Image

from edgegen.training import sheet as sheets
from edgegen.training.data import Photos, load
from edgegen.training.sheet import sheet
from edgegen.workflows.photos import PhotosSettings, check_photos


def test_the_sheet_shows_each_photo_by_class(tmp_path: Path) -> None:
    photos, _ = load(SAMPLE, 32)
    held = np.zeros(36, bool)
    held[1] = True
    drawn = sheet(photos, held, [[3, 5], [0, 20]])
    boxes = [place(drawn, pixels) for pixels in photos.pixels]
    assert len(set(boxes)) == 36
    rows = [{y for _, y in boxes[k : k + 12]} for k in (0, 12, 24)]
    assert max(rows[0]) < min(rows[1]) and max(rows[1]) < min(rows[2]), (
        "each class below the one before"
    )
    x, y = boxes[3]
    step = boxes[1][0] - boxes[0][0]
    assert boxes[5] == (x + step, y), "near-copies of a class stand side by side"
    blue, orange = (21, 101, 192), (230, 81, 0)
    x, y = boxes[1]
    assert (drawn[y - 2, x - 3 : x + 67] == blue).all() and (
        drawn[y - 3 : y + 67, x + 65] == blue
    ).all()
    for k, (x, y) in enumerate(boxes):
        assert (drawn[y + 65, x : x + 64] == orange).all() == (k in (0, 3, 5, 20))
        assert (drawn[y - 2, x : x + 64] == blue).all() == (k == 1)


def place(drawn: np.ndarray, pixels: np.ndarray) -> tuple[int, int]:
    """Left and top of the photo, twice as large; columns are 72 pixels apart."""
    large = pixels.repeat(2, axis=0).repeat(2, axis=1)
    for x in range(8, drawn.shape[1] - 63, 72):
        for y in np.flatnonzero((drawn[:-63, x : x + 64] == large[0]).all(axis=(1, 2))):
            if (drawn[y : y + 64, x : x + 64] == large).all():
                return x, int(y)
    raise AssertionError("it is not on the sheet")


def test_a_sheet_of_many_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    many = Photos(
        rng.integers(0, 256, (3000, 16, 16, 3), np.uint8), np.arange(3000) % 7, tuple("abcdefg")
    )
    titles = [title for title, _ in sheets._sections(many, np.zeros(3000, bool), 72, {})]
    assert (
        titles[0] == "a: 142 of 429 photos, 0 held out"
        and sheet(many, np.zeros(3000, bool), []).shape[0] < 4000
    )
    each = Photos(many.pixels, np.arange(3000), tuple(f"a chair, number {k}" for k in range(3000)))
    assert sheet(each, np.zeros(3000, bool), []).shape[0] < 12_000
    large = Photos(np.zeros((300, 512, 512, 3), np.uint8), np.zeros(300, np.int64), ())
    assert sheet(large, np.zeros(300, bool), []).size < 120e6


def test_names_and_exif_stay_out_of_the_sheet(tmp_path: Path) -> None:
    """Names of files and what a camera writes: not in the file, and not drawn, since other names
    give the same file.
    """
    secret = "SECRET-SERIAL-4711"
    for names in ("plain", secret):
        data = tmp_path / names
        data.mkdir()
        for k in range(10):
            exif = Image.Exif()
            if names == secret:
                exif[0x010F], exif[0x8825] = secret, {1: "N", 2: (47.0, 11.0, k)}  # maker, GPS
            (data / f"{names}-{k}.jpg").write_bytes(
                encoded("JPEG", picture(k), exif=exif, comment=names.encode())
            )
        check_photos(data, PhotosSettings(contact_sheet=data.with_suffix(".png")))
    made = (tmp_path / f"{secret}.png").read_bytes()
    assert made == (tmp_path / "plain.png").read_bytes() and secret.encode() not in made
    chunks, at = set(), 8
    while at < len(made):
        chunks.add(made[at + 4 : at + 8])
        at += 12 + int.from_bytes(made[at : at + 4], "big")
    # text says whose file it is, so that the next sheet may take its place
    assert chunks == {b"IHDR", b"tEXt", b"IDAT", b"IEND"} and made.count(b"tEXt") == 1


def test_class_names_that_are_long_or_odd_do_not_break_the_sheet() -> None:
    names = ("x" * 3000, "\x1b[31m\n", "möbel", "椅子", "\udcff")
    photos = Photos(np.zeros((5, 32, 32, 3), np.uint8), np.arange(5), names)
    assert sheet(photos, np.ones(5, bool), []).shape[1] < 1700
