"""Read the files of a folder that somebody else made: each is opened once, without following links,
hashed, and checked to be the same when the work ends.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..core.files import JsonObject, Numerals, parse_json
from ..core.reader import (
    descriptor,
    parts,
    refused,
    sha256_of,
)
from ..errors import InputError

CODE = "E-BRING"
TEXT_BYTES = 16 << 20  # largest JSON or text file
MOST_NAMES = 10_000  # most names in one folder
# infinity as Python writes it in JSON
NUMERALS: Numerals = {"-Infinity": float("-inf"), "Infinity": float("inf")}


@dataclass(frozen=True)
class FolderFiles:
    """Read files of one folder; `sha256` has every file that was read, by its path in the
    folder.
    """

    root: Path
    sha256: dict[str, str] = field(default_factory=dict)
    _states: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name

    def names(self, folder: str = "") -> list[str]:
        """Return the sorted names in a folder; none if it does not exist."""
        try:
            with self._folder(folder) as held:
                found = sorted(os.listdir(held))
        except FileNotFoundError:
            return []
        if len(found) > MOST_NAMES:
            raise InputError(CODE, f"it holds more than {MOST_NAMES} files", path=self.path(folder))
        return found

    def holds(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        return file in self.names(folder)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """Open a file as a descriptor for the block, and note its hash.

        Raises InputError for a link, or for what is no file.
        """
        folder, _, file = name.rpartition("/")
        path = self.path(name)
        try:
            with self._folder(folder) as held:
                self._refuse_link(file, held, path)
                found = descriptor(file, CODE, held)
        except FileNotFoundError as error:
            raise InputError(CODE, "there is no such file", path=path) from error
        except InputError as error:
            error.path = str(path)
            raise
        try:
            self._states[name] = _state(os.fstat(found))
            self.sha256[name] = sha256_of(found, path)
            yield found
        finally:
            os.close(found)

    def read(self, name: str, limit: int = TEXT_BYTES) -> bytes:
        """Return a file's bytes. Raises InputError for one that is larger than `limit`."""
        with self.opened(name) as held:
            data = b"".join(parts(held, self.path(name), limit + 1))
        if len(data) > limit:
            raise InputError(CODE, f"the file is larger than {limit} bytes", path=self.path(name))
        return data

    def json(self, name: str) -> JsonObject:
        """Return the JSON object in a file. Raises InputError for anything else."""
        try:
            data = parse_json(self.read(name), NUMERALS)
        except ValueError as error:
            raise InputError(CODE, f"not usable JSON: {error}", path=self.path(name)) from error
        if not isinstance(data, dict):
            raise InputError(CODE, "it holds no JSON object", path=self.path(name))
        return data

    def check_unchanged(self) -> None:
        """Raise InputError if a file is no longer the one that was read."""
        for name, state in self._states.items():
            try:
                same = _state(os.stat(self.path(name), follow_symlinks=False)) == state
            except OSError:
                same = False
            if not same:
                raise InputError(
                    CODE,
                    "it was changed while it was read",
                    path=self.path(name),
                    hint="run it again when nothing writes there",
                )

    @contextlib.contextmanager
    def _folder(self, name: str) -> Iterator[int]:
        """Open a folder of the folder. Raises FileNotFoundError if it does not exist, InputError
        for a link.
        """
        path = self.path(name)
        if name and path.is_symlink():
            raise _link(path)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if name else 0)
        try:
            found = os.open(path, flags)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise refused(error, path, CODE) from error
        try:
            yield found
        finally:
            os.close(found)

    @staticmethod
    def _refuse_link(file: str, held: int, path: Path) -> None:
        if stat.S_ISLNK(os.stat(file, dir_fd=held, follow_symlinks=False).st_mode):
            raise _link(path)


def _link(path: Path) -> InputError:
    return InputError(
        CODE, "it is a symbolic link", path=path, hint="copy the folder with its files: cp -rL"
    )


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
