"""Readers of tables that list photos and their classes: metadata.jsonl, metadata.csv, and the
dataset.json of StyleGAN's tools.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from unicodedata import normalize

from ...errors import InputError
from .tree import Tree, TreeEntry

JSONL, CSV, STYLEGAN = "metadata.jsonl", "metadata.csv", "dataset.json"
MAX_LINE = 64 << 10  # most bytes of one line
MAX_BYTES = 1 << 30  # most bytes of a table
CAPTIONS = 20  # number of different texts above which they may be captions instead of classes
NAMES = ("file_name", "filename", "file", "image", "image_file", "image_path", "path")
LABELS = ("label", "class", "category", "label_name", "class_name")
TEXTS = ("text", "caption", "prompt")
UTF8_MARK, UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
DELIMITERS = ",;\t"


@dataclass
class Table:
    """One table.

    rows: (line, label or None) by the photo's name relative to the set; unread: columns that are
    ignored; label: the column with the class; captions: whether its texts are captions instead of
    classes, because there are too many different ones; uneven: the error if only some rows have a
    label.
    """

    name: str
    rows: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    label: str = ""
    captions: bool = False
    uneven: InputError | None = None


def table_in(tree: Tree, folder: str = "") -> Table | None:
    """Read the table in a folder of the tree ("" for its top), or return None without one.

    InputError for an unusable table, or if there are two.
    """
    prefix = f"{folder}/" if folder else ""
    entries = tree.named()
    there = [prefix + name for name in (JSONL, CSV) if prefix + name in entries]
    for name in (JSONL, CSV):
        if (tree.path / prefix / name).is_symlink() and prefix + name not in entries:
            raise InputError(
                "E-META-LINE",
                f"{prefix}{name} cannot be opened: it is a symbolic link",
                path=tree.path / prefix / name,
            )
    if len(there) == 2:
        raise InputError(
            "E-META-TWO",
            f"{there[0]} and {there[1]} both say what the photos are",
            path=tree.path,
            hint="keep one of them",
        )
    if not there:
        return None
    return _TableReader(tree, entries[there[0]], prefix).table()


class _TableReader:
    """Reads one metadata.jsonl or metadata.csv."""

    def __init__(self, tree: Tree, entry: TreeEntry, prefix: str) -> None:
        self.tree, self.entry, self.prefix = tree, entry, prefix
        self.file = tree.path / entry.name if tree.path.is_dir() else tree.path

    def table(self) -> Table:
        data = self.tree.read(self.entry, MAX_BYTES, "E-META-LINE")
        if data.startswith(UTF16_MARKS):
            raise self.wrong(1, "the file starts with the mark of UTF-16; save it as UTF-8")
        lines = data.removeprefix(UTF8_MARK).split(b"\n")
        rows = list(self._csv(lines) if self.entry.suffix == ".csv" else self._jsonl(lines))
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        file, label = _first(NAMES, columns), _first(LABELS + TEXTS, columns)
        table = Table(self.entry.name, label=label or "")
        read = {file, label, *TEXTS}
        table.unread = tuple(str(column) for column in columns if column not in read)
        for number, row in rows:
            self._add(number, row, file, table)
        labels = {label for _, label in table.rows.values()}
        table.captions = label in TEXTS and len(labels) > max(CAPTIONS, len(table.rows) // 2)
        return table

    def wrong(self, number: int, what: str) -> InputError:
        return InputError("E-META-LINE", f"{self.entry.name}:{number} {what}", path=self.file)

    def _jsonl(self, lines: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in self._lines(lines):
            try:
                row: object = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise self.wrong(number, "not UTF-8 text") from error
            except (ValueError, RecursionError) as error:
                raise self.wrong(number, f"not JSON: {error}") from error
            if not isinstance(row, dict):
                raise self.wrong(number, "the line is not a JSON object")
            yield number, row

    def _csv(self, lines: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            text = "\n".join(line.decode("utf-8") for _, line in self._lines(lines, blank=True))
        except UnicodeDecodeError as error:
            raise self.wrong(1, "not UTF-8 text; save it as UTF-8") from error
        head = text.partition("\n")[0]
        delimiter = max(DELIMITERS, key=head.count)
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns: list[str] = []
        try:
            for cells in table:
                if not columns:
                    columns = [cell.strip().lower() for cell in cells]
                    continue
                if not any(cells):
                    continue
                if len(cells) != len(columns):
                    what = f"{len(cells)} cells under {len(columns)} columns"
                    raise self.wrong(table.line_num, what)
                named = zip(columns, cells, strict=True)
                yield table.line_num, {column: cell for column, cell in named if cell != ""}
        except csv.Error as error:
            raise self.wrong(table.line_num, f"not CSV: {error}") from error

    def _lines(self, lines: list[bytes], blank: bool = False) -> Iterator[tuple[int, bytes]]:
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_LINE:
                raise self.wrong(number, f"the line is longer than {MAX_LINE >> 10} KiB")
            if blank or line.strip():
                yield number, line.removesuffix(b"\r")

    def _add(self, number: int, row: dict[str, Any], file: str | None, table: Table) -> None:
        name = row.get(file) if file else None
        if not isinstance(name, str) or not name:
            there = f"; its columns are {', '.join(map(str, row))}" if row and not file else ""
            raise self.wrong(number, f"file_name is missing or not a text{there}")
        plain = PurePosixPath(name)
        foreign = "\\" in name or "\0" in name or not plain.parts or plain.parts[0].endswith(":")
        if foreign or plain.is_absolute() or ".." in plain.parts:
            raise self.wrong(number, f"file_name {name!r} must be a path inside the folder, with /")
        label = _label(row, table.label)
        if label is not None and (
            isinstance(label, bool) or not isinstance(label, str | int) or label == ""
        ):
            raise self.wrong(number, f"the label must be a text or a whole number, got {label!r}")
        whole = self.prefix + str(plain)
        if whole in table.rows:
            raise self.wrong(number, f"{name!r} is on line {table.rows[whole][0]} already")
        first = next(iter(table.rows.values()), (0, label))[1]
        if (first is None) != (label is None) and table.uneven is None:
            table.uneven = self.wrong(number, "some rows have a label or text and some have none")
            table.uneven.hint = "give each row one, or say --no-classes"
        table.rows[whole] = number, None if label is None else normalize("NFC", str(label))


def _label(row: Mapping[str, Any], column: str) -> object:
    """Return the label of a row, or its text if it has no value in the column of classes."""
    return next((row[name] for name in (column, *TEXTS) if name in row), None)


def _first(known: tuple[str, ...], columns: list[Any]) -> str | None:
    return next((name for name in known if name in columns), None)


def stylegan_labels(tree: Tree, folder: str = "") -> dict[str, str] | None:
    """Return the class of each photo in a dataset.json, by its name relative to the set.

    {} if the file gives no classes, None if there is no such file or it is another program's.
    InputError for an unusable file.
    """
    prefix = f"{folder}/" if folder else ""
    entry = tree.named().get(prefix + STYLEGAN)
    if entry is None:
        return None
    file = tree.path / entry.name if tree.path.is_dir() else tree.path
    try:
        document: object = json.loads(tree.read(entry, MAX_BYTES, "E-META-LINE"))
    except (ValueError, RecursionError) as error:
        raise InputError("E-META-LINE", f"{entry.name} is not JSON: {error}", path=file) from error
    if not isinstance(document, dict) or "labels" not in document:
        return None
    labels, found = document["labels"], dict[str, str]()
    if not isinstance(labels, list | None):
        what = f"{entry.name}: labels are a list, got {labels!r:.80}"
        raise InputError("E-META-LINE", what, path=file, hint="say --no-classes")
    for number, pair in enumerate(labels or (), 1):
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not isinstance(pair[0], str)
            or isinstance(pair[1], bool)
            or not isinstance(pair[1], int | str)
        ):
            what = f"{entry.name}: label {number} is no pair of a name and a class: {pair!r:.80}"
            raise InputError("E-META-LINE", what, path=file, hint="say --no-classes")
        found[prefix + str(PurePosixPath(pair[0]))] = str(pair[1])
    return found
