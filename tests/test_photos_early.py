"""What can be refused without looking at a photo is refused before one is decoded; and every verb
that reads photos says the same line first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from listeners import Heard
from photo_folders import CASES, CHAIRS, several, write

from edgegen.cli.main import run
from edgegen.training.pool import Pool
from edgegen.workflows.photo_sets import reference_at

Captured = pytest.CaptureFixture[str]
LINE = "understood: 2 classes, chair and sofa"


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> Any:
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr(Pool, "map", decode)
    monkeypatch.setattr(Pool, "decode", decode)


def photos(root: Path) -> Path:
    return write(root / "photos", several("chair/{}.png", 20) | several("sofa/{}.png", 20, 20))


def taken(root: Path) -> Path:
    (root / "run").mkdir()
    (root / "run" / "run.json").write_text("{}")
    return root / "run"


TRAIN = ["--recipe", "tiny", "--images", "16", "--threads", "1"]
REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a run is there": (lambda root: ["train", "cas-dm", str(taken(root))], "E-OUT-EXISTS"),
    "a run is there to tune": (
        lambda root: ["finetune", "cas-dm", str(taken(root))],
        "E-OUT-EXISTS",
    ),
    "a time": (
        lambda root: ["finetune", "cas-dm", str(root / "x"), "--time", "soon"],
        "--time must",
    ),
    "no time": (
        lambda root: ["finetune", "cas-dm", str(root / "x"), "--time", "0s"],
        "--time must",
    ),
    "a share": (
        lambda root: ["finetune", "cas-dm", str(root / "x"), "--held-out", "2"],
        "--held-out must be above 0",
    ),
    "a base": (lambda root: ["finetune", "nothing", str(root / "x")], "E-SOURCE"),
    "a rank": (lambda root: ["finetune", "cas-dm", str(root / "x"), "--rank", "9999"], "rank must"),
    "a fit": (
        lambda root: ["finetune", "cas-dm", str(root / "x"), "--fit", "squash"],
        "--fit must",
    ),
    "a colour": (
        lambda root: ["train", "cas-dm", str(root / "x"), *TRAIN, "--background", "no colour"],
        "is not a colour",
    ),
    "a device": (
        lambda root: ["train", "cas-dm", str(root / "x"), *TRAIN, "--device", "tpu"],
        "tpu",
    ),
    "a recipe": (lambda root: ["train", "cas-dm", str(root / "x"), "--recipe", "no"], "E-RECIPE"),
    "a change": (
        lambda root: ["train", "cas-dm", str(root / "x"), *TRAIN, "--set", "steps=none"],
        "steps",
    ),
    "an objective": (
        lambda root: ["train", "cas-dm", str(root / "x"), *TRAIN, "--only", "nothing"],
        "there is no objective 'nothing'",
    ),
    "feature weights": (
        lambda root: [
            *["train", "cas-dm", str(root / "x"), *TRAIN],
            *["--feature-weights", str(root / "none.safetensors")],
        ],
        "none.safetensors",
    ),
    "a sheet": (
        lambda root: ["photos", "check", "--contact-sheet", str(root / "photos" / "sheet.png")],
        "the contact sheet would be inside the folder of photos",
    ),
    "a sheet's folder": (
        lambda root: ["photos", "check", "--contact-sheet", str(root / "none" / "sheet.png")],
        "--contact-sheet must be a .png file in an existing folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_a_photo_is_decoded(
    case: str, tmp_path: Path, undecoded: None, capfd: Captured
) -> None:
    words, said = REFUSED[case]
    data = photos(tmp_path)
    command = words(tmp_path)
    given = [str(data)] if command[0] == "photos" else ["--data", str(data)]
    assert run([*command, *given]) in (2, 4)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["train", "finetune"])
def test_a_question_is_asked_before_a_photo_is_decoded(
    verb: str, tmp_path: Path, undecoded: None, capfd: Captured
) -> None:
    root = write(tmp_path / "photos", CASES["mixed"].files)
    flags = TRAIN if verb == "train" else []
    assert run([verb, "cas-dm", str(tmp_path / "x"), "--data", str(root), *flags]) == 4
    said = capfd.readouterr().err
    assert "1 image lies beside class folders" in said and "--no-classes" in said
    assert "such as 'cover.png'" in said and "understood" not in said


@pytest.mark.parametrize(("verb", "least"), [("train", 8), ("finetune", 16)])
def test_too_few_are_counted_before_a_photo_is_decoded(
    verb: str, least: int, tmp_path: Path, undecoded: None, capfd: Captured
) -> None:
    root = write(tmp_path / "photos", CHAIRS)
    flags = TRAIN if verb == "train" else []
    assert run([verb, "cas-dm", str(tmp_path / "x"), "--data", str(root), *flags]) == 4
    said = capfd.readouterr().err
    assert f"5 photos, {least} are needed" in said and LINE in said


def test_the_check_says_it_in_its_first_line(tmp_path: Path, capfd: Captured) -> None:
    sheet = ["--contact-sheet", str(tmp_path / "sheet.png")]
    assert run(["photos", "check", str(photos(tmp_path)), *sheet]) == 0
    assert capfd.readouterr().out.splitlines()[0] == LINE
    assert run(["photos", "check", str(tmp_path / "photos"), *sheet, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["understood"]["sentence"] == LINE.partition(": ")[2]
    assert shown["understood"]["classes"] == ["chair", "sofa"]
    mixed = write(tmp_path / "mixed", CASES["mixed"].files)
    assert run(["photos", "check", str(mixed), *sheet]) == 4
    assert "--no-classes" in capfd.readouterr().err
    assert run(["photos", "check", str(mixed), *sheet, "--no-classes"]) == 0
    assert capfd.readouterr().out.startswith("understood: 6 photos without classes\n")


def test_bad_photos_are_shown_by_reason(tmp_path: Path, capfd: Captured) -> None:
    root = photos(tmp_path)
    for k in range(50):
        (root / "sofa" / f"link{k:02d}.png").symlink_to(f"{k}.png")
    for k in range(4):
        (root / "sofa" / f"empty{k}.png").touch()
    assert run(["photos", "check", str(root), "--contact-sheet", str(tmp_path / "s.png")]) == 4
    shown = capfd.readouterr()
    rows = [line for line in shown.out.splitlines() if "E-DATA-LINK  " in line]
    assert len(rows) == 1 and rows[0].startswith("50 ")
    assert rows[0].endswith("sofa/link00.png, sofa/link01.png, sofa/link02.png and 47 more")
    assert "follow the links, --follow-links" in shown.err


def test_a_reference_of_photos_is_understood_too(tmp_path: Path) -> None:
    """Its classes do not matter: what is unclear about them is not asked."""
    mixed = write(tmp_path / "p", several("chair/{}.png", 10) | {"cover.png": 50})
    heard = Heard()
    found = reference_at(mixed, "photos", 16, None, heard)
    assert heard.notes[0] == "understood: 11 photos without classes" and found.count == 11
