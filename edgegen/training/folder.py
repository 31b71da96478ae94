"""Which photos a folder holds, in an order that does not depend on the file system: class
sub-folders or metadata.jsonl.

Only names and types are looked at here: nothing is opened but metadata.jsonl, no link is followed.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..core.files import JsonObject
from ..errors import InputError
from .magic import REFUSED_SUFFIXES, SUFFIXES

METADATA = "metadata.jsonl"
MAX_FOLDERS = 10_000
MAX_CLASSES = 1_000
MAX_LINE = 64 << 10  # bytes of one line of metadata.jsonl
CAPTIONS = 20  # different texts, from which on they may be captions rather than classes


@dataclass(frozen=True)
class Bad:
    """A file that cannot be used: its name relative to the folder, a stable code, one clause that
    says why.
    """

    name: str
    code: str
    reason: str


@dataclass
class Listing:
    """photos: (name, class) sorted by name, class "" where the folder has none; warnings: code ->
    names.
    """

    photos: list[tuple[str, str]] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def warn(self, code: str, name: str) -> None:
        self.warnings.setdefault(code, []).append(name)


def listing(root: Path) -> Listing:
    """Photos of `root` with their classes. InputError when the folder, its lay-out or its metadata
    cannot be used.
    """
    listed, folders = _walk(root)
    if (root / METADATA).is_symlink() or (root / METADATA).exists():
        _apply_metadata(root, listed)
    elif (root / "metadata.csv").exists():
        raise InputError(
            "E-META-CSV",
            "metadata.csv is not read",
            path=root / "metadata.csv",
            hint=f"write it as {METADATA}",
        )
    else:
        _classes(root, listed, folders)
    listed.photos.sort()
    listed.bad.sort(key=lambda bad: bad.name)
    labels = {label for _, label in listed.photos}
    if len(labels) > MAX_CLASSES:
        raise InputError(
            "E-DATA-LIMIT",
            f"{len(labels)} classes are more than the limit of {MAX_CLASSES}",
            path=root,
        )
    for label in _differ_by_case(labels):
        listed.warn("W-DATA-CLASS-CASE", label)
    return listed


def _walk(root: Path) -> tuple[Listing, list[str]]:
    """Every image-like file below root with class "", and the names of all sub-folders."""
    listed, folders, stack = Listing(), [], [""]
    while stack:
        prefix = stack.pop()
        try:
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                        folders.append(name)
                        stack.append(name + "/")
                    else:
                        _sort_in(entry, name, listed)
        except OSError as error:
            if not prefix:
                raise InputError(
                    "E-DATA-PERM", f"the folder cannot be listed: {error.strerror}", path=root
                ) from error
            listed.bad.append(
                Bad(prefix, "E-DATA-PERM", f"the folder cannot be listed: {error.strerror}")
            )
        if len(folders) > MAX_FOLDERS:
            raise InputError(
                "E-DATA-LIMIT",
                f"more than {MAX_FOLDERS} sub-folders",
                path=root,
                hint="name a smaller folder",
            )
    return listed, folders


def _sort_in(entry: os.DirEntry[str], name: str, listed: Listing) -> None:
    suffix = PurePosixPath(entry.name).suffix.lower()
    image = suffix in SUFFIXES | REFUSED_SUFFIXES
    if entry.name.startswith("."):  # also the ._name.jpg files that macOS leaves on USB sticks
        listed.warn("W-DATA-IGNORED", name)
    elif entry.is_symlink():
        if image or entry.is_dir():
            listed.bad.append(
                Bad(
                    name,
                    "E-DATA-LINK",
                    "symbolic links are not followed; put the photos themselves there",
                )
            )
        else:
            listed.warn("W-DATA-IGNORED", name)
    elif not entry.is_file(follow_symlinks=False):
        listed.warn("W-DATA-NOT-FILE", name)
    elif image:
        listed.photos.append((name, ""))
    elif name != METADATA:
        listed.warn("W-DATA-IGNORED", name)


def _classes(root: Path, listed: Listing, folders: list[str]) -> None:
    """The first folder below root is the class. All photos are in class folders, or none is."""
    inside = Counter("/" in name for name, _ in listed.photos)
    if inside[True] and inside[False]:
        raise InputError(
            "E-DATA-MIXED",
            f"{inside[False]} images lie beside class folders that hold {inside[True]}",
            path=root,
            hint="move them into a class folder, or all images into one folder",
        )
    listed.photos = [
        (name, name.partition("/")[0] if "/" in name else "") for name, _ in listed.photos
    ]
    held = {name.partition("/")[0] for name, _ in listed.photos}
    for folder in sorted(folders):
        if "/" not in folder and folder not in held:
            listed.warn("W-DATA-CLASS-EMPTY", folder)


def _differ_by_case(labels: set[str]) -> list[str]:
    count = Counter(label.casefold() for label in labels)
    return sorted(label for label in labels if count[label.casefold()] > 1)


def _apply_metadata(root: Path, listed: Listing) -> None:
    """Replace the walk's photos by the rows; images without a row are named in W-META-UNLISTED."""
    rows: dict[str, tuple[int, str | None]] = {}
    texts = set[str | None]()
    for number, row in _rows(root / METADATA):
        name, label = _row(row, root, number)
        if name in rows:
            raise _line_error(root, number, f"{name!r} is on line {rows[name][0]} already")
        if rows and (label is None) != (next(iter(rows.values()))[1] is None):
            raise _line_error(root, number, "some rows have a label or text and some have none")
        rows[name] = number, label
        if "label" not in row:
            texts.add(label)
    if len(texts) > max(CAPTIONS, len(rows) // 2):  # hardly a photo shares its text with another
        listed.warn("W-META-CAPTIONS", METADATA)
    linked = {bad.name for bad in listed.bad}
    for name, _ in listed.photos:
        if name not in rows:
            listed.warn("W-META-UNLISTED", name)
    listed.bad = [bad for bad in listed.bad if bad.name in rows]
    listed.photos = []
    for name, (number, label) in rows.items():
        if name not in linked:
            _take(root, name, number, label or "", listed)


def _take(root: Path, name: str, number: int, label: str, listed: Listing) -> None:
    """One row's file: every step of its path is looked at, so that no link leads out of the
    folder.
    """
    place = root
    for part in name.split("/"):
        place = place / part
        try:
            mode = place.lstat().st_mode
        except OSError as error:
            raise _line_error(
                root, number, f"{name!r}: {(error.strerror or 'cannot be found').lower()}"
            ) from error
        if stat.S_ISLNK(mode):
            listed.bad.append(
                Bad(
                    name,
                    "E-DATA-LINK",
                    "symbolic links are not followed; put the photos themselves there",
                )
            )
            return
    if stat.S_ISREG(mode):
        listed.photos.append((name, label))
    else:
        listed.bad.append(Bad(name, "E-IMG-NOT-IMAGE", "not a regular file"))


def _rows(path: Path) -> Iterator[tuple[int, JsonObject]]:
    """Line number and JSON object of every line that is not blank."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            "E-META-LINE", f"{METADATA} cannot be opened: {error.strerror}", path=path
        ) from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError("E-META-LINE", f"{METADATA} is not a regular file", path=path)
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise _line_error(
                    path.parent, number, f"the line is longer than {MAX_LINE >> 10} KiB"
                )
            if number == 1 and line.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
                raise _line_error(
                    path.parent,
                    1,
                    "the file starts with a byte order mark; save it as UTF-8 without one",
                )
            if line.strip():
                yield number, _parse(path.parent, number, line)


def _parse(root: Path, number: int, line: bytes) -> JsonObject:
    try:
        row: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _line_error(root, number, "not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise _line_error(root, number, f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _line_error(root, number, "the line is not a JSON object")
    return row


def _row(row: JsonObject, root: Path, number: int) -> tuple[str, str | None]:
    """Plain relative name and class of one row: `label`, else `text`, else None."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise _line_error(root, number, "file_name is missing or not a text")
    plain = PurePosixPath(name)
    foreign = "\\" in name or "\0" in name or not plain.parts or plain.parts[0].endswith(":")
    if foreign or plain.is_absolute() or ".." in plain.parts:
        raise _line_error(
            root, number, f"file_name {name!r} must be a path inside the folder, with /"
        )
    label = row.get("label", row.get("text"))
    if label is not None and (
        isinstance(label, bool) or not isinstance(label, str | int) or label == ""
    ):
        raise _line_error(
            root, number, f"the label must be a text or a whole number, got {label!r}"
        )
    return str(plain), None if label is None else str(label)


def _line_error(root: Path, number: int, what: str) -> InputError:
    return InputError("E-META-LINE", f"{METADATA}:{number} {what}", path=root / METADATA)
