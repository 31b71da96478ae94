"""Folders, metadata and IDX files become Photos; splits are fixed by pixels; nothing but pixels
gets in.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import SAMPLE
from PIL import Image

from edgegen.errors import InputError, ResourceError, UsageError
from edgegen.training.data import Photos, load, need
from edgegen.training.layout import tree, understand
from edgegen.training.reading import PhotoReading
from edgegen.training.split import near_copies, refuse_leak, split

SCRIPTS = Path(__file__).parent.parent / "scripts"


def picture(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    """Noise that is smooth enough to survive JPEG."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def folder_of(root: Path, count: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        picture(seed).save(root / f"{seed:03d}.png")
    return root


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.exit_code == 4
    return caught.value.code


def test_class_folders_give_sorted_photos_and_labels() -> None:
    photos, report = load(SAMPLE, 32)
    assert photos.pixels.shape == (36, 32, 32, 3) and photos.pixels.dtype == np.uint8
    assert photos.classes == ("bedroom", "kitchen", "living-room")
    assert photos.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert (report.found, report.kept, report.bad, report.duplicates) == (36, 36, (), ())
    assert report.classes == {"bedroom": 12, "kitchen": 12, "living-room": 12}
    assert report.warnings == {"W-DATA-IGNORED": ("LICENSE.txt",)}
    assert json.loads(json.dumps(report.to_json()))["counts"] == {"W-DATA-IGNORED": 1}
    assert np.median(photos.pixels[:, 0, 0]) == 255, "the renders stand on white"


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "b"), folder_of(tmp_path / "a" / "deep", 2)
    expected = understand.understand(tmp_path).photos
    real = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with real(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    assert understand.understand(tmp_path).photos == expected == tuple(sorted(expected))
    assert expected[0][:2] == ("a/deep/000.png", "a")


def test_photos_keep_their_aspect_on_the_background(tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (30, 60), "red").save(tmp_path / "tall.png")
    photos, _ = load(tmp_path, 32, PhotoReading("#0000ff"))
    tall, wide = photos.pixels
    assert (
        (wide[8:24] == (255, 0, 0)).all()
        and (wide[:8] == (0, 0, 255)).all()
        and (wide[24:] == (0, 0, 255)).all()
    )
    assert (tall == wide.transpose(1, 0, 2)).all()


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "fine.png")
    stripes[:, :256] = 0
    Image.fromarray(stripes).save(tmp_path / "half.png")
    photos, _ = load(tmp_path, 32)
    assert np.abs(photos.pixels[0].astype(int) - 127).max() <= 4, (
        "one pixel in two columns would be 0 or 255"
    )


def test_large_jpegs_are_decoded_smaller_without_a_visible_change(tmp_path: Path) -> None:
    big = picture(1, 1600, 1200)
    big.save(tmp_path / "a.jpg", quality=95)
    big.save(tmp_path / "b.png")
    photos, _ = load(tmp_path, 32)
    assert np.abs(photos.pixels[0].astype(int) - photos.pixels[1]).max() <= 4


def test_duplicates_are_named_and_one_is_kept(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(1 if name != "dog/d.png" else 2).save(tmp_path / name)
    photos, report = load(tmp_path, 32)
    assert (
        len(photos) == 2 and photos.classes == ("cat", "dog") and photos.labels.tolist() == [0, 1]
    )
    assert report.duplicates == (("cat/a.png", "cat/b.png", "dog/c.png"),)
    assert report.warnings["W-DATA-DUP"] == ("cat/b.png", "dog/c.png")
    assert report.warnings["W-DATA-DUP-CLASS"] == ("cat/a.png",), (
        "one picture, two classes: the user must look"
    )
    assert report.found == report.kept + 2


def test_class_folders_that_are_empty_or_differ_by_case_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "Chair", 2)
    (tmp_path / "chair").mkdir()
    picture(9).save(tmp_path / "chair" / "x.png")
    (tmp_path / "sofa").mkdir()
    photos, report = load(tmp_path, 32)
    assert photos.classes == ("Chair", "chair")
    assert report.warnings == {
        "W-DATA-CLASS-EMPTY": ("sofa",),
        "W-DATA-CLASS-CASE": ("Chair", "chair"),
    }


def test_hidden_files_and_fifos_are_never_opened(tmp_path: Path) -> None:
    folder_of(tmp_path, 2)
    (tmp_path / "._001.jpg").write_bytes(b"AppleDouble")
    (tmp_path / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.jpg")
    _, report = load(tmp_path, 32, PhotoReading(on_bad="fail"))
    assert report.warnings == {
        "W-DATA-IGNORED": ("._001.jpg", "notes.txt"),
        "W-DATA-NOT-FILE": ("pipe.jpg",),
    }


def test_a_folder_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(lambda: load(tmp_path / "none", 32)) == "E-DATA-MISSING"
    (tmp_path / "file").write_text("x")
    assert code_of(lambda: load(tmp_path / "file", 32)) == "E-DATA-MISSING"
    empty = tmp_path / "empty"
    (empty / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match=r"found 0 images \(looked for JPEG, PNG, WebP") as caught:
        load(empty, 32)
    assert caught.value.code == "E-DATA-EMPTY"
    mixed = folder_of(tmp_path / "mixed")
    folder_of(mixed / "class")
    assert code_of(lambda: load(mixed, 32)) == "E-DATA-MIXED"
    monkeypatch.setattr(tree, "MAX_FOLDERS", 3)
    for k in range(5):
        (tmp_path / "many" / str(k)).mkdir(parents=True)
    assert code_of(lambda: load(tmp_path / "many", 32)) == "E-DATA-LIMIT"


def test_too_many_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(understand, "MAX_CLASSES", 2)
    for k in range(3):
        folder_of(tmp_path / str(k), 1)
    assert code_of(lambda: load(tmp_path, 32)) == "E-DATA-LIMIT"


@pytest.mark.parametrize("kind", ["same", "flat"])
def test_photos_that_teach_nothing_are_refused(tmp_path: Path, kind: str) -> None:
    for k in range(3):
        (picture(1) if kind == "same" else Image.new("RGB", (40, 40), (k, 80, 200))).save(
            tmp_path / f"{k}.png"
        )
    assert code_of(lambda: load(tmp_path, 32)) == "E-DATA-CONSTANT"


def test_too_few_photos_and_wrong_settings_say_so(tmp_path: Path) -> None:
    photos, _ = load(folder_of(tmp_path), 32)
    need(photos, 4, "calibration")
    with pytest.raises(InputError, match="calibration needs at least 32 photos, got 4") as caught:
        need(photos, 32, "calibration")
    assert caught.value.code == "E-DATA-TOO-FEW"
    wrong: list[dict[str, Any]] = [
        {"min_side": 0},
        {"background": "no one"},
        {"on_bad": "maybe"},
    ]
    for setting in wrong:
        with pytest.raises(UsageError):
            load(tmp_path, 32, PhotoReading(**setting))
    with pytest.raises(UsageError, match="must be positive, got 0"):
        load(tmp_path, 0)
    with pytest.raises(UsageError, match="split='all' must be train or test"):
        load(tmp_path, 32, split="all")  # type: ignore[arg-type]


def test_photos_that_do_not_fit_in_memory_are_refused_before_reading(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        load(folder_of(tmp_path), 10**6)
    assert caught.value.code == "E-MEMORY" and caught.value.exit_code == 7


# metadata.jsonl


def with_metadata(root: Path, text: str | bytes) -> Path:
    folder_of(root)
    (root / "metadata.jsonl").write_bytes(text.encode() if isinstance(text, str) else text)
    return root


@pytest.mark.parametrize("key", ["label", "text"])
def test_metadata_gives_classes_and_names_what_it_leaves_out(tmp_path: Path, key: str) -> None:
    rows = [{"file_name": "002.png", key: "sofa"}, {"file_name": "./000.png", key: "chair"}]
    root = with_metadata(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n")
    photos, report = load(root, 32)
    assert photos.classes == ("chair", "sofa") and photos.labels.tolist() == [0, 1]
    assert report.warnings == {"W-META-UNLISTED": ("001.png", "003.png")}


def test_metadata_without_labels_and_with_numbers(tmp_path: Path) -> None:
    photos, _ = load(
        with_metadata(tmp_path / "a", '{"file_name": "000.png"}\n{"file_name": "001.png"}'), 32
    )
    assert photos.classes == () and photos.labels.tolist() == [0, 0]
    photos, _ = load(with_metadata(tmp_path / "b", '{"file_name": "000.png", "label": 7}'), 32)
    assert photos.classes == ("7",)


GOOD = '{"file_name": "000.png"}\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD + "{nonsense}\n", 2, "not JSON"),
        (GOOD + "[" * 20000, 2, "not JSON"),
        (GOOD + "[1]\n", 2, "not a JSON object"),
        (GOOD + '{"text": "x"}\n', 2, "file_name is missing"),
        (GOOD + '{"file_name": 3}\n', 2, "file_name is missing"),
        (GOOD + '{"file_name": "../../x.png"}\n', 2, "inside the folder"),
        (GOOD + '{"file_name": "/etc/passwd"}\n', 2, "inside the folder"),
        (GOOD + '{"file_name": "C:/x.png"}\n', 2, "inside the folder"),
        (GOOD + '{"file_name": "a\\\\b.png"}\n', 2, "inside the folder"),
        (GOOD + '{"file_name": "x\\u0000.png"}\n', 2, "inside the folder"),
        (GOOD + '{"file_name": "none.png"}\n', 2, "no such file"),
        (GOOD + '{"file_name": "001.png/x.png"}\n', 2, "not a directory"),
        (GOOD + GOOD, 2, "is on line 1 already"),
        (GOOD + '\n{"file_name": "./000.png"}\n', 3, "is on line 1 already"),
        (GOOD + '{"file_name": "001.png", "label": "a"}\n', 2, "some rows have a label"),
        (GOOD + '{"file_name": "001.png", "label": 1.5}\n', 2, "whole number"),
        (
            GOOD + '{"file_name": "001.png", "text": "' + "x" * 70_000 + '"}\n',
            2,
            "longer than 64 KiB",
        ),
        (GOOD.encode("utf-16"), 1, "the mark of UTF-16"),
        (GOOD.encode() + b'{"file_name": "\xff.png"}\n', 2, "not UTF-8"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_metadata_errors_carry_the_line(
    tmp_path: Path, text: str | bytes, line: int, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(with_metadata(tmp_path, text), 32)
    assert caught.value.code == "E-META-LINE" and caught.value.message.startswith(
        f"metadata.jsonl:{line} "
    )
    assert words in caught.value.message


def test_metadata_cannot_lead_out_through_links(tmp_path: Path) -> None:
    outside = folder_of(tmp_path / "outside")
    rows = [*(f"{k:03d}.png" for k in range(30)), "d/000.png"]
    root = with_metadata(
        tmp_path / "in", "\n".join(json.dumps({"file_name": name}) for name in rows)
    )
    folder_of(root, 30)
    (root / "d").symlink_to(outside)
    _, report = load(root, 32)
    assert [(bad.name, bad.code) for bad in report.bad] == [("d/000.png", "E-DATA-LINK")]
    (root / "metadata.jsonl").rename(tmp_path / "m.jsonl")
    (root / "metadata.jsonl").symlink_to(tmp_path / "m.jsonl")
    assert code_of(lambda: load(root, 32)) == "E-META-LINE"


# split and near-copies


def many(n: int = 400) -> Photos:
    rng = np.random.default_rng(0)
    return Photos(
        rng.integers(0, 256, (n, 16, 16, 3), np.uint8), rng.integers(0, 3, n), ("a", "b", "c")
    )


def kinds(photos: Photos) -> set[bytes]:
    return {image.tobytes() for image in photos.pixels}


def test_the_split_is_a_function_of_each_photo() -> None:
    photos = many()
    train, held = split(photos)
    assert (
        len(train) + len(held) == 400
        and 20 < len(held) < 70
        and train.classes == held.classes == photos.classes
    )
    half = Photos(photos.pixels[::-2], photos.labels[::-2], photos.classes)
    assert kinds(split(half)[1]) == kinds(held) & kinds(half), (
        "photos that go do not move the others"
    )
    twice = Photos(
        np.concatenate([photos.pixels] * 2), np.concatenate([photos.labels] * 2), photos.classes
    )
    assert not kinds(split(twice)[0]) & kinds(split(twice)[1]), "equal photos are on one side"


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="too few to hold out"):
        split(many(1))
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError):
            split(many(), share)


def test_near_copies_across_the_split_are_found(tmp_path: Path) -> None:
    train, _ = load(SAMPLE, 32)
    first, second = (Photos(train.pixels[k::2], train.labels[k::2], train.classes) for k in (0, 1))
    refuse_leak(first, second)
    for name in sorted(SAMPLE.rglob("*.png"))[:5]:
        with Image.open(name) as image:
            image.save(tmp_path / (name.stem + ".jpg"), quality=75)
    copies, _ = load(tmp_path, 32)
    assert near_copies(train, copies).tolist() == [[0, 0], [1, 1], [2, 2], [3, 4], [4, 5]], (
        "number 3 is a JPEG"
    )
    with pytest.raises(InputError, match="5 of 5 held-out photos are near-copies") as caught:
        refuse_leak(train, copies)
    assert caught.value.code == "E-DATA-LEAK"


# privacy


def test_nothing_of_a_photo_but_pixels_gets_in(tmp_path: Path) -> None:
    secret = "SECRET-SERIAL-4711"
    for k in range(3):
        exif = Image.Exif()
        exif[0x010F], exif[0x8825] = secret, {1: "N", 2: (47.0, 11.0, k)}  # maker, GPS
        picture(k).save(
            tmp_path / f"{secret}-{k}.jpg", exif=exif, quality=95, comment=secret.encode()
        )
    assert secret.encode() in (tmp_path / f"{secret}-0.jpg").read_bytes()
    photos, report = load(tmp_path, 32)
    assert secret.encode() not in pickle.dumps(photos) and b"Exif" not in pickle.dumps(photos)
    assert set(vars(photos)) == {"pixels", "labels", "classes"} and report.bad == ()
    bare = tmp_path / "bare"
    bare.mkdir()
    for k in range(3):
        picture(k).save(bare / f"{k}.jpg", quality=95)
        (tmp_path / f"{secret}-{k}.jpg").unlink()
    assert load(bare, 32)[0].fingerprint == photos.fingerprint, "names and EXIF change nothing"


def test_progress_is_told_after_each_photo(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load(folder_of(tmp_path, 3), 32, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
