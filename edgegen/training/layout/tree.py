"""The entries of a folder or a zip archive, as a list that does not depend on the file system's
order. Only this module walks folders; it follows links only on request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from ...core.reader import descriptor, is_annex_link
from ...errors import EdgegenError, InputError
from ..magic import HEAD, REFUSED_SUFFIXES, SUFFIXES, recognised
from ..photos import Span
from .description import Bad
from .junk import owner_of_folder

MAX_FOLDERS = 10_000
MAX_LEFT_OUT = 200_000  # most folders that are left out; network drives may have one per photo
LINK = "symbolic links are not followed; put the photos themselves there, or say --follow-links"
OUTSIDE = "it is a symbolic link that leads out of the folder"
NOWHERE = "it is a symbolic link that leads nowhere"
ANNEX = "it is a git-annex link whose content is not here; run `git annex get`"
EntryKind = Literal["photo", "refused", "other"]


class TreeEntry(NamedTuple):
    """A regular file: its name relative to the set, its kind by its name or first bytes, the file
    that holds it, and its place in that file.
    """

    name: str
    kind: EntryKind
    file: str
    span: Span | None = None

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The name without its folder and last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()


@dataclass
class Tree:
    """The entries of a folder or archive.

    entries: sorted by name; folders: names of all folders; read: a function of an entry, the most
    bytes to read and an error code that returns the entry's bytes.
    """

    path: Path
    entries: list[TreeEntry] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    read: Callable[[TreeEntry, int, str], bytes] = lambda entry, limit, code: b""

    def warn(self, code: str, name: str) -> None:
        self.warnings.setdefault(code, []).append(name)

    def named(self) -> Mapping[str, TreeEntry]:
        """Return the entries by name."""
        return {entry.name: entry for entry in self.entries}


def kind_of(name: str, head: Callable[[], bytes]) -> EntryKind:
    """Return the kind of a file by its suffix, or if that is unknown by its first bytes."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return "photo"
    if suffix in REFUSED_SUFFIXES:
        return "refused"
    return "photo" if recognised(head()) else "other"


class _FolderWalk:
    """One walk through a folder."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.root, self.follow = root, follow_links
        self.real = os.path.realpath(root)
        self.tree = Tree(root)
        self.left_out = 0
        self.seen = {self.real}  # folders already followed, so that circular links end

    def whole(self) -> Tree:
        stack = [("", False)]
        while stack:
            prefix, junk = stack.pop()
            try:
                with os.scandir(self.root / prefix) as entries:
                    for entry in entries:
                        if inner := self._take(entry, prefix + entry.name, junk):
                            stack.append(inner)
            except OSError as error:
                self._unreadable(prefix, error)
            if len(self.tree.folders) > MAX_FOLDERS:
                raise InputError(
                    "E-DATA-LIMIT",
                    f"more than {MAX_FOLDERS} sub-folders",
                    path=self.root,
                    hint="name a smaller folder",
                )
        self.tree.entries.sort()
        return self.tree

    def _unreadable(self, prefix: str, error: OSError) -> None:
        what = f"the folder cannot be listed: {error.strerror}"
        if not prefix:
            raise InputError("E-DATA-PERM", what, path=self.root) from error
        self.tree.bad.append(Bad(prefix, "E-DATA-PERM", what))

    def _take(self, entry: os.DirEntry[str], name: str, junk: bool) -> tuple[str, bool] | None:
        """Record an entry, or if it is a folder return it, with whether its content is left out."""
        if entry.is_dir(follow_symlinks=False):
            return self._folder(name, junk or owner_of_folder(entry.name) is not None)
        if entry.is_symlink():
            return self._link(entry, name, junk)
        if not entry.is_file(follow_symlinks=False):
            self.tree.warn("W-DATA-NOT-FILE", name)
        else:
            self._file(name, os.path.join(self.root, name), junk)
        return None

    def _folder(self, name: str, junk: bool) -> tuple[str, bool] | None:
        if not junk:
            self.tree.folders.append(name)
            return name + "/", False
        self.left_out += 1
        return (name + "/", True) if self.left_out <= MAX_LEFT_OUT else None

    def _file(self, name: str, file: str, junk: bool) -> None:
        kind = kind_of(name, (lambda: b"") if junk else lambda: _head(file))
        self.tree.entries.append(TreeEntry(name, kind, file))

    def _link(self, entry: os.DirEntry[str], name: str, junk: bool) -> tuple[str, bool] | None:
        suffix = PurePosixPath(name).suffix.lower()
        if junk or entry.name.startswith("."):
            self.tree.warn("W-DATA-IGNORED", name)
        elif not self.follow:
            if suffix in SUFFIXES | REFUSED_SUFFIXES or entry.is_dir():
                absent = Bad(name, "E-IMG-NOT-IMAGE", ANNEX)
                link = Bad(name, "E-DATA-LINK", LINK)
                self.tree.bad.append(absent if self._is_absent(name) else link)
            else:
                self.tree.warn("W-DATA-IGNORED", name)
        else:
            return self._followed(name)
        return None

    def _is_absent(self, name: str) -> bool:
        """Return whether the link leads to a git-annex file that was not fetched."""
        link = self.root / name
        return is_annex_link(link) and not link.exists()

    def _followed(self, name: str) -> tuple[str, bool] | None:
        real = os.path.realpath(self.root / name)
        if self._is_absent(name):
            self.tree.bad.append(Bad(name, "E-IMG-NOT-IMAGE", ANNEX))
        elif os.path.commonpath([real, self.real]) != self.real:
            self.tree.bad.append(Bad(name, "E-DATA-LINK", OUTSIDE))
        elif os.path.isdir(real):
            if real not in self.seen:  # a folder that is met by two names is read once by each
                self.seen.add(real)
                return self._folder(name, False)
        elif os.path.isfile(real):
            self._file(name, real, False)
        else:
            self.tree.bad.append(Bad(name, "E-DATA-LINK", NOWHERE))
        return None


def walked(root: Path, follow_links: bool = False) -> Tree:
    """Walk a folder. InputError if it cannot be listed or has too many sub-folders."""
    tree = _FolderWalk(root, follow_links).whole()
    tree.read = _read
    return tree


def _head(file: str) -> bytes:
    """Return the first bytes of a file, or b"" if it cannot be read."""
    try:
        held = descriptor(file, "E-FILE")
    except EdgegenError:
        return b""
    try:
        return os.pread(held, HEAD, 0)
    except OSError:
        return b""
    finally:
        os.close(held)


def _read(entry: TreeEntry, limit: int, code: str) -> bytes:
    from ...core.reader import read_bytes

    return read_bytes(Path(entry.file), limit, code)
