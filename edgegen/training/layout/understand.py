"""understand(), which describes the photos at a path; the same files give the same description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ...errors import InputError
from .. import idx
from ..magic import HEIC_SUFFIXES
from ..shards import find
from . import archive
from .description import (
    MAX_CLASSES,
    Bad,
    FolderDescription,
    LeftOut,
    Listed,
    counted,
    joined,
)
from .folders import SPLITS, Grouping, grouped
from .junk import SHOP_SIZE, owner_of
from .rows import STYLEGAN, Table, stylegan_labels, table_in
from .tree import LINK, Tree, TreeEntry, walked

CAPTION_FILES = {".txt", ".caption", ".npz", ".tags", ".json"}
TABLES = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx"}


def understand(path: Path, classes: bool = True, follow_links: bool = False) -> FolderDescription:
    """Describe the photos in a folder, a zip archive, a folder of IDX files or tar shards.

    classes: if false, no photo gets a class, whatever folders say. follow_links: whether to follow
    symbolic links that stay inside the folder. InputError if there is no set of photos; anything
    unclear is in the description's `question`.
    """
    if shards := find(path):
        return FolderDescription(path, "shards", how=counted(len(shards), "tar shard"))
    if archive.is_zip(path):
        return _Understanding(archive.members(path), "zip", classes).described()
    if not path.is_dir():
        what = "is not a folder or a zip archive" if path.exists() else "does not exist"
        raise InputError("E-DATA-MISSING", f"the folder of photos {what}", path=path)
    if idx.is_there(path):
        return FolderDescription(path, "idx", how="pictures and labels in IDX files")
    return _Understanding(walked(path, follow_links), "folder", classes).described()


class _Understanding:
    """Turns one tree into a description."""

    def __init__(self, tree: Tree, kind: str, classes: bool) -> None:
        self.tree, self.kind, self.wants_classes = tree, kind, classes
        self.left_out: dict[tuple[str, str], list[str]] = {}
        self.notes: list[str] = []
        self.question: InputError | None = None
        self.bad = list(tree.bad)
        self.tables: set[str] = set()
        self.table: Table | None = None

    def described(self) -> FolderDescription:
        photos = self._photos()
        labels, found = self._labelled(photos)
        self._told_of_others(photos)
        listed = [
            Listed(entry.name, labels[entry.name] if self.wants_classes else "", *entry[2:])
            for entry in photos.values()
            if entry.name in labels
        ]
        if self.wants_classes:
            self.question = self.question or found.question
            self._checked({photo.label for photo in listed if photo.label}, found)
        for part in found.left_out:
            self._leave_out(part.what, part.whose, *part.names)
        return FolderDescription(
            self.tree.path,
            "zip" if self.kind == "zip" else "folder",
            tuple(sorted(listed)),
            found.how,
            found.splits,
            tuple(LeftOut(*key, tuple(sorted(n))) for key, n in sorted(self.left_out.items())),
            tuple(sorted(self.bad, key=lambda bad: bad.name)),
            {code: tuple(sorted(names)) for code, names in sorted(self.tree.warnings.items())},
            (*self._links(), *self.notes, *(found.notes if self.wants_classes else ())),
            self.question,
        )

    # which files are photos of the set

    def _photos(self) -> dict[str, TreeEntry]:
        """Return the photos of the set by name, without what other programs left among them."""
        own = [entry for entry in self.tree.entries if self._is_own(entry)]
        pictures = [entry for entry in own if entry.kind != "other"]
        second = {entry.name for entry in pictures if _is_second(entry)}
        beside = {(e.folder, e.stem) for e in pictures if e.name not in second}
        kept: dict[str, TreeEntry] = {}
        for entry in pictures:
            sized = SHOP_SIZE.fullmatch(entry.stem)
            if entry.name in second and (entry.folder, entry.stem) in beside:
                self._leave_out("raw or HEIC version", "of photos that are kept", entry.name)
            elif sized and (entry.folder, sized["whole"]) in beside:
                self._leave_out("smaller copy", "of a shop system", entry.name)
            else:
                kept[entry.name] = entry
        return kept

    def _is_own(self, entry: TreeEntry) -> bool:
        if owner := owner_of(entry.name):
            if entry.kind != "other":
                self._leave_out(*owner, entry.name)
            return False
        if entry.name.rpartition("/")[2].startswith("."):
            self.tree.warn("W-DATA-IGNORED", entry.name)
            return False
        return True

    def _leave_out(self, what: str, whose: str, *names: str) -> None:
        self.left_out.setdefault((what, whose), []).extend(names)

    # classes

    def _labelled(self, photos: dict[str, TreeEntry]) -> tuple[dict[str, str], Grouping]:
        """Return the class of each photo that is used, and the meaning of the folders' names."""
        rows = self._rows(photos)
        found = grouped(rows if rows is not None else photos, self.tree.path, self.kind == "zip")
        if rows is None:
            return found.labels, found
        said = {label for label in rows.values() if label}
        labels = {name: label or "" for name, label in rows.items()}
        if not said and self.wants_classes:  # without labels in tables, folders may be classes
            labels = found.labels if found.question is None else labels
            found.question = None
        else:
            found = Grouping(splits=found.splits, how=self._by())
        return labels, found

    def _by(self) -> str:
        column = f"{self.table.label} in " if self.table and self.table.label else ""
        return f", by {column}{joined(sorted(self.tables))}" if self.wants_classes else ""

    def _rows(self, photos: dict[str, TreeEntry]) -> dict[str, str | None] | None:
        """Return the labels that tables give to the photos, or None without any table."""
        folders = ["", *(f for f in self.tree.folders if "/" not in f and f.lower() in SPLITS)]
        tables = [table for folder in folders if (table := table_in(self.tree, folder))]
        if tables:
            return self._of_tables(tables, photos)
        if not self.wants_classes:
            return None
        found: dict[str, str] = {}
        for folder in ["", *(f for f in self.tree.folders if "/" not in f)]:
            labels = stylegan_labels(self.tree, folder)
            if labels is not None:
                self.tables.add(f"{folder}/{STYLEGAN}" if folder else STYLEGAN)
                found |= labels
        if not found:
            if self.tables:
                self.notes.append(f"{joined(sorted(self.tables))} names no label")
            return None
        for name in sorted(photos.keys() - found.keys()):
            self.tree.warn("W-META-UNLISTED", name)
        return {name: label for name, label in found.items() if name in photos}

    def _of_tables(
        self, tables: list[Table], photos: dict[str, TreeEntry]
    ) -> dict[str, str | None]:
        rows: dict[str, str | None] = {}
        self.table = tables[0]
        named = _Names(photos)
        for table in tables:
            self.tables.add(table.name)
            if self.wants_classes:
                self.question = self.question or table.uneven
            if table.captions:
                self.tree.warn("W-META-CAPTIONS", table.name)
                self.notes.append(f"the {table.label} of {table.name} are captions, not classes")
            for column in table.unread:
                self.tree.warn("W-META-COLUMNS", column)
            if table.unread:
                many = "columns" if len(table.unread) > 1 else "column"
                self.notes.append(f"{many} {joined(table.unread)} of {table.name} not read")
            for name, (number, label) in table.rows.items():
                if (found := self._row_file(named, table, name, number, photos)) is not None:
                    rows[found] = None if table.captions else label
        for name in sorted(photos.keys() - rows.keys()):
            self.tree.warn("W-META-UNLISTED", name)
        linked = {bad.name for bad in self.tree.bad}
        self.bad = [bad for bad in self.bad if bad.name in linked & named.asked]
        return rows

    def _row_file(
        self, named: _Names, table: Table, name: str, number: int, photos: dict[str, TreeEntry]
    ) -> str | None:
        """Return the name of a row's photo, or None for a bad one, which is recorded as such."""
        named.asked.add(name)
        if found := named.of(name):
            return found
        for bad in self.tree.bad:
            if name == bad.name or name.startswith(f"{bad.name}/"):
                if name != bad.name:
                    self.bad.append(Bad(name, bad.code, bad.reason))
                    self.tree.bad.append(self.bad[-1])
                return None
        entries = self.tree.named()
        if entry := entries.get(name):  # a file not named like a photo, or one that was left out
            photos[name] = entry
            for names in self.left_out.values():
                if name in names:
                    names.remove(name)
            return name
        file = self.tree.path / table.name if self.kind == "folder" else self.tree.path
        parents = [f"{name}/".rpartition("/")[0]]
        while "/" in parents[-1]:
            parents.append(parents[-1].rpartition("/")[0])
        what = "not a directory" if any(p in entries for p in parents[1:]) else "no such file"
        raise InputError("E-META-LINE", f"{table.name}:{number} {name!r}: {what}", path=file)

    def _checked(self, labels: set[str], found: Grouping) -> None:
        if len(labels) > MAX_CLASSES:
            raise InputError(
                "E-DATA-LIMIT",
                f"{len(labels)} classes are more than the limit of {MAX_CLASSES}",
                path=self.tree.path,
                hint="say --no-classes to take all without classes",
            )
        count = Counter(label.casefold() for label in labels)
        for label in sorted(labels):
            if count[label.casefold()] > 1:
                self.tree.warn("W-DATA-CLASS-CASE", label)
        for folder in found.forms:
            self.tree.warn("W-DATA-CLASS-FORM", folder)
        if not found.folders or found.splits or found.how:
            return
        held = {
            entry.name.partition("/")[0] for entry in self.tree.entries if entry.kind != "other"
        }
        for folder in self.tree.folders:
            if "/" not in folder and folder not in held:
                self.tree.warn("W-DATA-CLASS-EMPTY", folder)

    # other files

    def _told_of_others(self, photos: dict[str, TreeEntry]) -> None:
        """Report files that are not photos, and mention tables and captions in the line."""
        stems = {(entry.folder, entry.stem) for entry in photos.values()}
        others = [e for e in self.tree.entries if e.kind == "other" and not owner_of(e.name)]
        others = [e for e in others if not e.name.rpartition("/")[2].startswith(".")]
        others = [e for e in others if e.name not in self.tables | photos.keys()]
        for entry in others:
            self.tree.warn("W-DATA-IGNORED", entry.name)
        captions = [e for e in others if e.suffix in CAPTION_FILES and (e.folder, e.stem) in stems]
        if captions:
            self.notes.append(f"{counted(len(captions), 'caption file')} not read")
        unread = [e.name for e in others if e.suffix in TABLES and "/" not in e.name]
        if tables := [name for name in unread if name not in {e.name for e in captions}]:
            self.notes.append(f"{joined(tables)} not read")

    def _links(self) -> Iterable[str]:
        links = [bad.reason for bad in self.bad if bad.code == "E-DATA-LINK"]
        unfollowed = links.count(LINK)
        if unfollowed:
            yield f"{counted(unfollowed, 'symbolic link')} not followed"
        if len(links) > unfollowed:
            yield f"{counted(len(links) - unfollowed, 'symbolic link')} to nothing inside left out"


def _is_second(entry: TreeEntry) -> bool:
    """Return whether the file is of a kind (raw, HEIC) that may accompany an easier format."""
    return entry.kind == "refused" or entry.suffix in HEIC_SUFFIXES


class _Names:
    """Finds photos by the names in a table, in any Unicode form."""

    def __init__(self, photos: dict[str, TreeEntry]) -> None:
        from unicodedata import normalize

        self.photos, self.normalize = photos, normalize
        self.by_form = {normalize("NFC", name): name for name in photos}
        self.asked = set[str]()

    def of(self, name: str) -> str | None:
        if name in self.photos:
            return name
        return self.by_form.get(self.normalize("NFC", name))
