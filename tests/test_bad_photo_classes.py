"""Every class of bad photo, B01 to B32, at the command line: one sentence
with its code, one exit code.

What each looks like on the inside stands in other files; TABLE says where.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest
from bad_folders import FOLDERS, PATCHED, good
from bad_photos import BAD, encoded, picture
from PIL import Image

from edgegen.cli.main import run

Captured = pytest.CaptureFixture[str]
HERE = "test_bad_photo_classes"
PER_FILE = [
    f"{HERE}.test_a_bad_photo_is_named_at_the_command_line",
    "test_bad_photos.test_a_bad_photo_is_refused_with_its_code",
]
ODD = f"{HERE}.test_odd_photos_are_used_and_counted"
FOLDER = f"{HERE}.test_a_folder_gets_one_sentence_and_an_exit_code"
TABLE = {
    **{
        number: PER_FILE
        for number in ("B03", "B04", "B05", "B07", "B08", "B17", "B18", "B19", "B21", "B22")
    },
    "B01": [FOLDER, "test_data.test_a_folder_that_cannot_be_used_says_why"],
    "B02": [FOLDER, "test_data.test_a_folder_that_cannot_be_used_says_why"],
    "B09": [ODD, "test_photos.test_content_decides_not_the_name"],
    "B11": [ODD, "test_photos.test_cmyk_is_converted_and_counted"],
    "B12": [
        ODD,
        "test_photos.test_alpha_is_composited_on_the_background",
        "test_photos.test_more_than_8_bits_are_scaled_and_counted",
    ],
    "B14": [
        ODD,
        "test_photos.test_exif_orientation_is_applied_once",
        "test_fit.test_a_photo_is_turned_before_it_is_cropped",
    ],
    "B15": [
        f"{HERE}.test_nothing_of_a_file_reaches_a_run",
        "test_data.test_nothing_of_a_photo_but_pixels_gets_in",
        "test_contact_sheet.test_names_and_exif_stay_out_of_the_sheet",
    ],
    "B16": [ODD, *PER_FILE, "test_photos.test_of_several_frames_the_first_is_used_and_counted"],
    "B23": [FOLDER, "test_data.test_hidden_files_and_fifos_are_never_opened"],
    "B24": [FOLDER, "test_bad_photos.test_links_are_refused_and_never_followed"],
    "B25": [FOLDER, "test_bad_photos.test_files_that_cannot_be_opened_say_why"],
    "B27": [FOLDER, "test_data.test_duplicates_are_named_and_one_is_kept"],
    "B28": [
        FOLDER,
        "test_copies.test_near_copies_land_on_one_side_and_others_stay_where_they_were",
        "test_data.test_near_copies_across_the_split_are_found",
    ],
    "B29": [FOLDER, "test_data.test_photos_that_teach_nothing_are_refused"],
    "B30": [
        FOLDER,
        "test_data.test_too_few_photos_and_wrong_settings_say_so",
        "test_bad_input.test_one_sentence_and_an_exit_code",
    ],
    "B31": [FOLDER, "test_data.test_metadata_errors_carry_the_line"],
    "B32": [FOLDER, "test_data.test_class_folders_that_are_empty_or_differ_by_case_are_named"],
}


def test_every_class_has_its_tests() -> None:
    named = {name for tests in TABLE.values() for name in tests}
    trees = {
        file: ast.parse((Path(__file__).parent / f"{file}.py").read_text())
        for file in {n.partition(".")[0] for n in named}
    }
    there = {
        f"{file}.{node.name}"
        for file, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - there == set()
    mentioned = {
        name.split()[0] for name in [*BAD, *FOLDERS, *ODD_PHOTOS] if name[1:3].isdigit()
    } | {"B15"}
    assert mentioned == set(TABLE), "each number has a case"


def check(root: Path, *flags: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the check."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(
            ["photos", "check", str(root), "--contact-sheet", str(root.with_suffix(".png")), *flags]
        )
    return code, out.getvalue(), err.getvalue()


# one photo


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, str]:
    """One folder with every bad photo among good ones."""
    root = tmp_path_factory.mktemp("spoiled") / "photos"
    good(root, 3)
    for k, (name, content, _, _) in enumerate(BAD.values()):
        (root / f"{k:02d}-{name}").write_bytes(content)
    return check(root, "--json")


@pytest.mark.parametrize("case", BAD)
def test_a_bad_photo_is_named_at_the_command_line(spoiled: tuple[int, str, str], case: str) -> None:
    code, out, err = spoiled
    name, _, bad, words = BAD[case]
    error = json.loads(out)
    named = next(
        photo
        for photo in error["details"]["photos"]["bad"]
        if photo["name"] == f"{list(BAD).index(case):02d}-{name}"
    )
    assert named["code"].startswith(bad) and words in named["reason"]
    assert any(named["code"] in line for line in err.splitlines())
    assert (
        code == 4
        and f"error[E-DATA-BAD] {len(BAD)} of {len(BAD) + 3} photos cannot be used: 00-a.jpg: "
        "E-IMG-EMPTY"
        in err
    )
    assert (
        f"photos: {len(BAD) + 3} found, 3 used, {len(BAD)} bad, 0 left out" in err
        and "Traceback" not in err
    )


def turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded("JPEG", picture(50), exif=exif)


def transparent(mode: str, seed: int) -> bytes:
    image = picture(seed).convert("RGBA")
    image.putalpha(100)
    return encoded("PNG", image.convert(mode))


ODD_PHOTOS: dict[str, tuple[bytes, str]] = {  # content, and the code that counts it
    "B09 PNG called JPEG": (encoded("PNG", picture(51)), ""),
    "B11 CMYK": (encoded("JPEG", picture(52).convert("CMYK")), "W-IMG-CMYK"),
    "B12 RGBA": (transparent("RGBA", 53), "W-IMG-ALPHA"),
    "B12 grey and alpha": (transparent("LA", 54), "W-IMG-ALPHA"),
    "B12 palette": (encoded("PNG", picture(55).convert("P")), "W-IMG-PALETTE"),
    "B12 palette with alpha": (
        encoded("PNG", picture(56).convert("P"), transparency=0),
        "W-IMG-PALETTE",
    ),
    "B12 grey": (encoded("PNG", picture(57).convert("L")), ""),
    "B12 one bit": (encoded("PNG", picture(58).convert("1")), ""),
    "B12 16 bits": (encoded("PNG", picture(59).convert("I;16")), "W-IMG-DEPTH"),
    "B14 turned": (turned(), "W-IMG-TURNED"),
    "B16 frames": (
        encoded("TIFF", picture(60), save_all=True, append_images=[picture(1)]),
        "W-IMG-FRAMES",
    ),
}


def test_odd_photos_are_used_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    good(root, 3, first=20)
    for k, (content, _) in enumerate(ODD_PHOTOS.values()):
        (root / f"{k:02d}.jpg").write_bytes(content)
    code, out, err = check(root, "--json")
    assert code == 0, err
    found = json.loads(out)["photos"]
    assert found["bad"] == [] and found["kept"] == len(ODD_PHOTOS) + 3
    for k, (case, (_, warning)) in enumerate(ODD_PHOTOS.items()):
        codes = {code for code, names in found["warnings"].items() if f"{k:02d}.jpg" in names}
        assert warning in codes if warning else codes == set(), case


# one folder


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_gets_one_sentence_and_an_exit_code(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected, said = FOLDERS[case]
    root = tmp_path / "photos"
    make(root, *([monkeypatch] if make in PATCHED else []))
    code, out, err = check(root, "--held-out", "0.4")
    assert code == expected, err
    for words in said:
        assert words in (err if code else out), words
    assert "Traceback" not in err and err.count("error[") == (code != 0)


# what must not leave the folder


@pytest.mark.slow
def test_nothing_of_a_file_reaches_a_run(tmp_path: Path, capsys: Captured) -> None:
    """No file name, no EXIF, no thumbnail; what is exported is made from the run alone."""
    secret, root, out = "SECRET-SERIAL-4711", tmp_path / "photos", tmp_path / "run"
    thumbnail = encoded("JPEG", picture(99, 16, 16))
    root.mkdir()
    for k in range(20):
        exif = Image.Exif()
        exif[0x010F], exif[0x8825] = secret, {1: "N", 2: (47.0, 11.0, k)}  # maker, GPS
        photo = encoded(
            "JPEG", picture(k), exif=exif.tobytes() + thumbnail, comment=secret.encode()
        )
        (root / f"{secret}-{k}.jpg").write_bytes(photo)
    assert secret.encode() in photo and b"Exif" in photo and thumbnail in photo
    flags = ["--recipe", "tiny", "--images", "32", "--threads", "1", "--samples-every", "1"]
    assert run(["train", "cas-dm", str(out), "--data", str(root), *flags]) == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10 and any(path.suffix == ".png" for path in files)
    for path in files:
        marks = [secret.encode(), thumbnail[20:80], str(tmp_path).encode()] + [b"Exif", b"eXIf"] * (
            path.suffix == ".png"
        )
        assert [mark for mark in marks if mark in path.read_bytes()] == [], path.name
    assert secret not in capsys.readouterr().out and not any(secret in str(path) for path in files)
