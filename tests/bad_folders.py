"""Folders of photos with one thing wrong each: how they are made, the exit code, what is said."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_photos import encoded, picture
from PIL import Image

from edgegen.training.layout import tree, understand

GOOD = [encoded("PNG", picture(k)) for k in range(40)]


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

    def described(path: Path, *how: bool) -> Any:
        found = understand.understand(path, *how)
        (path / "good07.png").unlink()
        return found

    good(root)
    patch.setattr("edgegen.training.data.understand", described)


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
    patch.setattr(tree, "MAX_FOLDERS", 3)
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
        ["error[E-DATA-MISSING] the folder of photos is not a folder or a zip archive"],
    ),
    "B02 empty": (
        lambda root: (root / "sub").mkdir(parents=True),
        4,
        ["error[E-DATA-EMPTY] found 0 images (looked for JPEG, PNG, WebP"],
    ),
    "B23 fifo and socket": (
        sockets,
        0,
        ["W-DATA-NOT-FILE  2      not a regular file: never opened"],
    ),
    "B24 link": (
        link,
        0,
        [
            "E-DATA-LINK  symbolic links are not followed; put the photos themselves there, or "
            "say --follow-links"
        ],
    ),
    "B24 loop": (loop, 0, ["E-DATA-LINK  symbolic links are not followed", "loop.png"]),
    "B25 unreadable": (
        unreadable,
        0,
        ["E-DATA-PERM  the folder cannot be listed: Permission denied", "private/"],
    ),
    "B25 vanished": (
        vanishing,
        0,
        ["E-DATA-GONE  it vanished after the folder was listed", "good07.png"],
    ),
    "B27 duplicates": (
        doubled,
        0,
        ["duplicates: 2 photos in 1 group (equal", "  good07.png  same.png", "W-DATA-DUP  1 "],
    ),
    "B28 near-copies": (
        nearly,
        0,
        [
            "near-copies: 80 photos in 40 groups (each group stays on one side",
            "; 0 near-copies on both sides",
        ],
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
        ["metadata.jsonl:1 the file starts with the mark of UTF-16; save it as UTF-8"],
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
        ["W-DATA-CLASS-CASE  2      classes whose names differ only in upper and lower case"],
    ),
    "mixed": (
        lambda root: good(good(root) / "a"),
        4,
        ["error[E-DATA-MIXED] 40 images lie beside class folders that hold 40"],
    ),
    "metadata.csv": (
        lambda root: (good(root) / "metadata.csv").write_text("x\ny\n"),
        4,
        ["E-META-LINE] metadata.csv:2 file_name is missing or not a text; its columns are x"],
    ),
}
# what of these needs a MonkeyPatch: nothing on a disk does it
PATCHED = (unreadable, vanishing, many)
