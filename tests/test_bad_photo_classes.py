"""Every class of bad photo of the list of bad inputs, B01 to B32, at the command line: one sentence
with its code, one exit code.

What each looks like on the inside stands in other files; TABLE says where.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_photos import BAD, encoded, picture
from PIL import Image

from edgegen.cli.main import run
from edgegen.training import folder

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
        "test_photos_check.test_names_and_exif_stay_out_of_the_sheet",
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
GOOD = [encoded("PNG", picture(k)) for k in range(40)]


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
    return check(root)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_photo_is_named_at_the_command_line(spoiled: tuple[int, str, str], case: str) -> None:
    code, out, err = spoiled
    name, _, bad, words = BAD[case]
    line = next(
        line for line in out.splitlines() if line.startswith(f"{list(BAD).index(case):02d}-{name} ")
    )
    assert bad in line and words in line
    assert (
        code == 4
        and f"error[E-DATA-BAD] {len(BAD)} of {len(BAD) + 3} photos cannot be used: 00-a.jpg: "
        "E-IMG-EMPTY"
        in err
    )
    assert (
        f"photos: {len(BAD) + 3} found, 3 used, {len(BAD)} bad, 0 left out" in out
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


def good(root: Path, count: int = 40, first: int = 0) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        (root / f"good{k:02d}.png").write_bytes(GOOD[k])
    return root


def sockets(root: Path) -> None:
    os.mkfifo(good(root) / "pipe.jpg")
    here = os.getcwd()
    os.chdir(root)  # the path of a socket has few bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.jpg")
    finally:
        os.chdir(here)


def link(root: Path) -> None:
    (good(root) / "link.png").symlink_to("/etc/passwd")


def loop(root: Path) -> None:
    (good(root) / "loop.png").symlink_to("loop.png")


def unreadable(root: Path, patch: pytest.MonkeyPatch) -> None:
    """A sub-folder that may not be listed: root, who may run the tests, may list all."""
    (good(root / "chairs").parent / "private").mkdir()
    real = os.scandir

    def scan(path: Any) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    patch.setattr(os, "scandir", scan)


def vanishing(root: Path, patch: pytest.MonkeyPatch) -> None:

    def listing(path: Path) -> Any:
        found = folder.listing(path)
        (path / "good07.png").unlink()
        return found

    good(root)
    patch.setattr("edgegen.training.data.listing", listing)


def doubled(root: Path) -> None:
    (good(root) / "same.png").write_bytes(GOOD[7])


def nearly(root: Path) -> None:
    """Of each photo a copy: by themselves they would lie on both sides of the split."""
    good(root)
    for k in range(40):
        (root / f"near{k:02d}.jpg").write_bytes(encoded("JPEG", picture(k), quality=90))


def equal(root: Path) -> None:
    for name in ("a.png", "b.png"):
        (good(root, 1) / name).write_bytes(GOOD[0])


def flat(root: Path) -> None:
    root.mkdir()
    for k in range(5):
        Image.new("RGB", (40, 40), (k, 90, 200)).save(root / f"{k}.png")


def rows(text: str | bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (good(root, 3) / "metadata.jsonl").write_bytes(
            text.encode() if isinstance(text, str) else text
        )

    return make


def many(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folder, "MAX_FOLDERS", 3)
    for k in range(5):
        (root / str(k)).mkdir(parents=True)


def classes(*names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for k, name in enumerate(names):
            good(root / name, 0 if name == "empty" else 20, 20 * (k % 2))

    return make


ROW = '{"file_name": "good00.png"}\n'
# how it is made, exit code, what is said
FOLDERS: dict[str, tuple[Callable[..., Any], int, list[str]]] = {
    "B01 missing": (
        lambda root: None,
        4,
        ["error[E-DATA-MISSING] the folder of photos does not exist"],
    ),
    "B01 a file": (
        lambda root: root.write_text("x"),
        4,
        ["error[E-DATA-MISSING] the folder of photos is not a folder"],
    ),
    "B02 empty": (
        lambda root: (root / "sub").mkdir(parents=True),
        4,
        ["error[E-DATA-EMPTY] found 0 images (looked for .bmp"],
    ),
    "B23 fifo and socket": (sockets, 0, ["W-DATA-NOT-FILE  2      no regular file: never opened"]),
    "B24 link": (
        link,
        0,
        [
            "link.png   E-DATA-LINK  symbolic links are not followed; put the photos themselves "
            "there"
        ],
    ),
    "B24 loop": (loop, 0, ["loop.png   E-DATA-LINK  symbolic links are not followed"]),
    "B25 unreadable": (
        unreadable,
        0,
        ["private/   E-DATA-PERM  the folder cannot be listed: Permission denied"],
    ),
    "B25 vanished": (
        vanishing,
        0,
        ["good07.png  E-DATA-GONE  it vanished after the folder was listed"],
    ),
    "B27 duplicates": (
        doubled,
        0,
        ["duplicates: 2 photos in 1 group (equal", "  good07.png  same.png", "W-DATA-DUP  1 "],
    ),
    "B28 near-copies": (
        nearly,
        0,
        ["near-copies: 80 photos in 40 groups (one side", "; 0 near-copies across it"],
    ),
    "B29 all equal": (equal, 4, ["error[E-DATA-CONSTANT] all 3 photos are identical"]),
    "B29 flat": (flat, 4, ["error[E-DATA-CONSTANT] each of the 5 photos is of one colour"]),
    "B30 too few": (
        lambda root: good(root, 5),
        0,
        ["fine-tuning: too few: 5 photos, 16 are needed"],
    ),
    "B31 not JSON": (rows(ROW + "{no\n"), 4, ["error[E-META-LINE] metadata.jsonl:2 not JSON"]),
    "B31 no name": (
        rows(ROW + '{"text": "x"}\n'),
        4,
        ["error[E-META-LINE] metadata.jsonl:2 file_name is missing"],
    ),
    "B31 outside": (
        rows(ROW + '{"file_name": "../../x.png"}\n'),
        4,
        ["metadata.jsonl:2 file_name '../../x.png' must be a"],
    ),
    "B31 absolute": (
        rows('{"file_name": "/etc/x.png"}\n'),
        4,
        ["metadata.jsonl:1 file_name '/etc/x.png' must be a path inside"],
    ),
    "B31 not there": (
        rows('{"file_name": "x.png"}\n'),
        4,
        ["metadata.jsonl:1 'x.png': no such file"],
    ),
    "B31 twice": (rows(ROW + ROW), 4, ["metadata.jsonl:2 'good00.png' is on line 1 already"]),
    "B31 long line": (
        rows('{"file_name": "' + "x" * 70_000),
        4,
        ["metadata.jsonl:1 the line is longer than 64 KiB"],
    ),
    "B31 UTF-16": (
        rows(ROW.encode("utf-16")),
        4,
        ["metadata.jsonl:1 the file starts with a byte order mark"],
    ),
    "B32 many folders": (many, 4, ["error[E-DATA-LIMIT] more than 3 sub-folders"]),
    "B32 empty class": (
        classes("chair", "table", "empty"),
        0,
        ["W-DATA-CLASS-EMPTY  1      a class folder without photos"],
    ),
    "B32 case": (
        classes("chair", "Chair"),
        0,
        ["W-DATA-CLASS-CASE  2      classes that differ by upper and lower case alone"],
    ),
    "mixed": (
        lambda root: good(good(root) / "a"),
        4,
        ["error[E-DATA-MIXED] 40 images lie beside class folders that hold 40"],
    ),
    "metadata.csv": (
        lambda root: (good(root) / "metadata.csv").write_text("x"),
        4,
        ["E-META-CSV] metadata.csv is not read"],
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_gets_one_sentence_and_an_exit_code(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected, said = FOLDERS[case]
    root = tmp_path / "photos"
    make(root, *([monkeypatch] if make in (unreadable, vanishing, many) else []))
    code, out, err = check(root, "--held-out", "0.4")
    assert code == expected, err
    for words in said:
        assert words in (err if code else out), words
    assert "Traceback" not in err and err.count("error[") == (code != 0)


# what must not leave the folder


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
