"""`edgegen photos check`: what it says of a folder, the sheet it draws, and that it changes and
gives away nothing.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_photos import picture
from datasets import SAMPLE
from PIL import Image
from shards_of import folder as shards

from edgegen.cli.main import run
from edgegen.cli.photos import MEANING
from edgegen.errors import InputError
from edgegen.training.data import load
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.finetune.setup import choose, hold_out

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[1]


def check(data: Path, *flags: str) -> int:
    """The sheet lies beside the folder."""
    return run(
        ["photos", "check", str(data), "--contact-sheet", str(data.with_suffix(".png")), *flags]
    )


def site(root: Path, count: int = 40) -> Path:
    """Two classes of renders, one bad photo, copies and near-copies, one turned, one transparent,
    one wide.
    """
    for k in range(count):
        (root / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        picture(k).save(root / "ab"[k % 2] / f"{k:02d}.png")
    picture(0).save(root / "a" / "again.bmp")
    picture(1).save(root / "b" / "near.jpg", quality=80)
    (root / "b" / "empty.jpg").write_bytes(b"")
    exif = Image.Exif()
    exif[274] = 6
    picture(90).save(root / "a" / "turned.jpg", exif=exif)
    transparent = picture(91).convert("RGBA")
    transparent.putalpha(90)
    transparent.save(root / "a" / "glass.png")
    picture(92, 64, 48).save(root / "b" / "wide.png")
    return root


def test_it_says_what_is_there(tmp_path: Path, capsys: Captured) -> None:
    data = site(tmp_path / "site")
    before = sorted(data.rglob("*"))
    assert check(data, "--json", "--held-out", "0.4") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verb"] == "photos check" and found["usable"] and found["size"] == 32
    photos = found["photos"]
    assert (photos["found"], photos["kept"], photos["classes"]) == (46, 44, {"a": 22, "b": 22})
    assert photos["bad"] == [
        {"name": "b/empty.jpg", "code": "E-IMG-EMPTY", "reason": "the file has 0 bytes"}
    ]
    assert found["bad_counts"] == {"E-IMG-EMPTY": 1}
    assert photos["duplicates"] == [["a/00.png", "a/again.bmp"]] and found["near_copies"] == [
        ["b/01.png", "b/near.jpg"]
    ]
    assert photos["counts"] == {"W-DATA-DUP": 1, "W-IMG-ALPHA": 1, "W-IMG-TURNED": 1}
    assert (
        photos["sizes"]["width"] == {"min": 48, "median": 48, "max": 64} and photos["fit"] == "pad"
    )
    assert found["shapes"] == {
        "wide": 1,
        "square": 43,
        "tall": 0,
        "mean_cost": 0.25,
        "max_cost": 0.25,
        "smaller": 0,
    }
    split = found["split"]
    assert (
        split["held_out_share"] == 0.4
        and split["train"] + split["held_out"] == 44
        and split["copies_across"] == []
    )
    why = f"enough: {split['train']} photos to train on, {split['held_out']} held out"
    assert found["fine_tuning"] == {"enough": True, "why": why, "small_classes": {}}
    assert Path(found["contact_sheet"]).is_file() and sorted(data.rglob("*")) == before


def test_it_says_so_to_people(tmp_path: Path, capsys: Captured) -> None:
    data = site(tmp_path / "site")
    assert check(data, "--held-out", "0.4", "--size", "64", "--fit", "crop") == 0
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "photos: 46 found, 44 used, 1 bad, 1 left out as duplicates",
        "shapes: 43 square, 1 wide, 0 tall",
        "those that are not square are cropped: 25% of each photo is cut away on average and at "
        "most 25%; --fit pad would keep the whole photo and add background",
        "smaller: 44 photos have a side of fewer than 64 pixels",
        "duplicates: 2 photos in 1 group (equal pixels)",
        "  a/00.png  a/again.bmp",
        "near-copies: 2 photos in 1 group (each group stays on one side of the split)",
        "  b/01.png  b/near.jpg",
        "bad: 1 E-IMG-EMPTY",
        "1       E-IMG-EMPTY  the file has 0 bytes  b/empty.jpg",
        f"contact sheet: {tmp_path / 'site.png'}",
    ):
        assert line in lines, line
    assert any(
        re.fullmatch(r"W-IMG-TURNED +1 +turned upright, as its EXIF data says +a/turned.jpg", line)
        for line in lines
    )
    assert any(re.fullmatch(r"a +22 +\d+", line) for line in lines)


def test_photos_that_train_would_refuse_are_shown_and_then_refused(
    tmp_path: Path, capsys: Captured
) -> None:
    data = site(tmp_path / "site", 10)
    assert check(data, "--json") == 4
    shown = capsys.readouterr()
    failure = json.loads(shown.out)
    assert not failure["ok"] and failure["code"] == "E-DATA-BAD" and failure["exit"] == 4
    assert not failure["details"]["usable"] and failure["details"]["photos"]["kept"] == 14
    assert failure["details"]["fine_tuning"] == {
        "enough": False,
        "why": "not with this folder",
        "small_classes": {},
    }
    assert "b/empty.jpg: E-IMG-EMPTY the file has 0 bytes" in shown.err.splitlines()[-1]
    assert (tmp_path / "site.png").is_file()


def test_no_photo_at_all_that_can_be_used(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "site"
    data.mkdir()
    (data / "a.jpg").write_bytes(b"")
    assert check(data) == 4
    shown = capsys.readouterr()
    assert (
        "photos: 1 found, 0 used, 1 bad" in shown.out
        and "error[E-DATA-BAD] 1 of 1 photos cannot be used" in shown.err
    )
    assert not (tmp_path / "site.png").exists()


def unlike(root: Path, count: int) -> Path:
    root.mkdir()
    for k in range(count):
        picture(k).save(root / f"{k}.png")
    return root


@pytest.mark.parametrize(
    ("count", "flags", "why"),
    [
        (12, [], "too few: 12 photos, 16 are needed"),
        (
            17,
            [],
            r"too few: \d+ to train on and \d+ held out, 8 of each are needed; 17 of the 17 photos "
            r"are different ones",
        ),
        (30, [], r"enough: \d+ photos to train on, \d+ held out"),
        (30, ["--held-out", "0.1"], r"too few: \d+ to train on and \d held out, 8 of each .*"),
        (30, ["--held-out", "0.9"], r"too few: \d to train on and \d+ held out, 8 of each .*"),
    ],
)
def test_whether_it_is_enough_for_fine_tuning(
    tmp_path: Path, capsys: Captured, count: int, flags: list[str], why: str
) -> None:
    assert check(unlike(tmp_path / "site", count), *flags, "--json") == 0
    found = json.loads(capsys.readouterr().out)["fine_tuning"]
    assert re.fullmatch(why, found["why"]) and found["enough"] == why.startswith("enough")


@pytest.mark.parametrize("count", [17, 30, 60])
def test_finetune_takes_what_it_says(tmp_path: Path, capsys: Captured, count: int) -> None:
    """The same share, the same photos on each side, the same refusal."""
    data = unlike(tmp_path / "site", count)
    assert check(data, "--json") == 0
    found, photos = json.loads(capsys.readouterr().out), load(data, 32)[0]
    chosen = choose(FinetuneSettings(), None, open_base("cas-dm"))
    if not found["fine_tuning"]["enough"]:
        with pytest.raises(InputError, match="cannot be held out"):
            hold_out(photos, chosen)
        return
    chosen, train, held = hold_out(photos, chosen)
    assert found["split"] == {
        "held_out_share": chosen.held_out,
        "train": len(train),
        "held_out": len(held),
        "copies_across": [],
    }


def test_classes_of_few_photos_are_named(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "site"
    for name, first, count in (("many", 0, 40), ("few", 40, 3), ("single", 43, 1)):
        (data / name).mkdir(parents=True)
        for k in range(first, first + count):
            picture(k).save(data / name / f"{k}.png")
    assert check(data) == 0
    shown = capsys.readouterr()
    found = re.search(r"learn from, kept if the family allows it: (.*)", shown.out)
    assert found is not None and re.fullmatch(r"few \([123]\), single \([01]\)", found[1])


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--held-out", "1.5"], 2, "--held-out must be above 0 and below 1, got 1.5"),
        (["--held-out", "nan"], 2, "--held-out must be above 0 and below 1, got nan"),
        (["--fit", "bucket"], 2, "--fit must be pad or crop, got 'bucket'"),
        (["--background", "x"], 2, "background 'x' is not a colour"),
        (["--size", "4"], 2, "--size"),
        (
            ["--contact-sheet", "sheet.jpg"],
            2,
            "error[E-OUT] --contact-sheet must be a .png file in an existing folder",
        ),
        (
            ["--contact-sheet", "none/sheet.png"],
            2,
            "error[E-OUT] --contact-sheet must be a .png file in an existing folder",
        ),
        (
            ["--contact-sheet", str(SAMPLE / "kitchen" / "x.png")],
            2,
            "error[E-OUT] the contact sheet would be inside the folder of photos",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(
    flags: list[str], code: int, said: str, capsys: Captured
) -> None:
    assert run(["photos", "check", str(SAMPLE), *flags]) == code
    assert said in capsys.readouterr().err


def test_shards_are_not_for_it(tmp_path: Path, capsys: Captured) -> None:
    data = shards(tmp_path / "data", 10)
    for place in (data, data / "000.tar"):
        assert run(["photos", "check", str(place), "--contact-sheet", str(tmp_path / "x.png")]) == 2
        assert (
            "error[E-DATA-SHARDS] tar shards are checked while they are read, not before"
            in capsys.readouterr().err
        )


def test_idx_files_are_for_it(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "idx"
    data.mkdir()
    pixels = np.stack([np.asarray(picture(k, 28, 28).convert("L")) for k in range(50)])
    (data / "train-images-idx3-ubyte").write_bytes(
        bytes((0, 0, 8, 3)) + struct.pack(">III", 50, 28, 28) + pixels.tobytes()
    )
    (data / "train-labels-idx1-ubyte").write_bytes(
        bytes((0, 0, 8, 1)) + struct.pack(">I", 50) + bytes(k % 5 for k in range(50))
    )
    assert check(data, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["photos"]["classes"] == {str(k): 10 for k in range(5)}
        and found["photos"]["sizes"]["width"]["max"] == 28
    )


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from edgegen.cli.main import run; code = run(['photos', 'check', "
        f"{str(SAMPLE)!r}, '--contact-sheet', "
        f"{str(tmp_path / 'x.png')!r}]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )


def test_every_code_has_a_meaning() -> None:
    written = {
        code
        for path in (ROOT / "edgegen" / "training").rglob("*.py")
        for code in re.findall(r'"(W-[A-Z]+(?:-[A-Z]+)+)"', path.read_text())
    }
    assert written == set(MEANING)


def test_many_captions_are_no_classes(tmp_path: Path, capsys: Captured) -> None:
    data = tmp_path / "site"
    data.mkdir()
    rows: list[dict[str, Any]] = [
        {"file_name": f"{k}.png", "text": f"a chair, number {k}"} for k in range(22)
    ]
    for k in range(22):
        picture(k).save(data / f"{k}.png")
    (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert check(data) == 0
    assert (
        "W-META-CAPTIONS  1      almost every text belongs to a single photo: these are "
        "captions, not classes" in capsys.readouterr().out
    )
    (data / "metadata.jsonl").write_text(
        "\n".join(json.dumps({**row, "label": "chair"}) for row in rows)
    )
    photos, report = load(data, 32)
    assert photos.classes == ("chair",) and report.warnings == {}


def test_a_file_that_is_no_contact_sheet_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sheet's own name is where one looks last."""
    monkeypatch.chdir(tmp_path)
    for name in ("contact-sheet.png", "link.png"):
        other = tmp_path / name
        if name == "link.png":
            other.symlink_to("mine.png")
        else:
            picture(3).save(other)
        before = os.readlink(other) if other.is_symlink() else other.read_bytes()
        assert run(["photos", "check", str(SAMPLE), "--contact-sheet", name]) == 2
        assert "E-OUT-EXISTS] a file of this name exists and is not a" in capfd.readouterr().err
        assert (os.readlink(other) if other.is_symlink() else other.read_bytes()) == before
        other.unlink()
    for _ in range(2):
        assert run(["photos", "check", str(SAMPLE)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["contact-sheet.png"]
