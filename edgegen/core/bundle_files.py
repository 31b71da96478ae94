"""The files of a bundle, opened once and held: one version of it, from when it is opened until it
is let go.

The folder is opened first, and every file is opened from there. An export that publishes a new
bundle under the same name exchanges the folders: whoever holds the old one reads it to the end,
although its files have no names any more.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import InputError, NotFetched, TrustError
from . import reader
from .files import put_parts

MOST = 500  # files of a bundle: each is held open


class BundleFiles:
    """Open files by name. They are closed with the object."""

    def __init__(self, root: Path) -> None:
        """InputError for what is no folder."""
        self.root = root
        self._held: dict[str, int] = {}
        try:
            self._folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError("E-BUNDLE", "there is no such folder", path=root) from error
        except (OSError, ValueError) as error:
            raise reader.refused(error, root, "E-BUNDLE") from error
        self._held["."] = self._folder  # a name that no file has
        weakref.finalize(self, _close, self._held)

    def is_current(self) -> bool:
        """Whether the name still means the folder that was opened."""
        try:
            now, then = os.stat(self.root), os.fstat(self._folder)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._held

    def hold(self, name: str) -> None:
        """Open a file at the top of the folder. InputError for a link, or anything but a file."""
        self._held[name] = reader.descriptor(name, "E-BUNDLE", self._folder)

    def hold_all(self, listed: Collection[str], unlisted: Collection[str]) -> None:
        """Open all files that are listed, and those of `unlisted` that are there. TrustError for a
        listed one that is missing, and for anything else in the folder.
        """
        for name, folder, entry in self._entries():
            if not entry.is_file(follow_symlinks=False):
                raise TrustError(
                    "E-MANIFEST", f"{name} is a link or a device, not a file", path=self.root
                )
            if name in self._held:
                continue
            if name in listed or name in unlisted:
                try:
                    self._held[name] = reader.descriptor(entry.name, "E-BUNDLE", folder)
                except NotFetched as error:
                    error.path = str(self.root / name)
                    raise
                except InputError as error:
                    raise InputError(
                        "E-BUNDLE", f"{name}: {error.message}", path=self.root
                    ) from error
            else:
                raise TrustError(
                    "E-MANIFEST", f"{name} is not listed in the manifest", path=self.root
                )
        for name in listed:
            if name not in self._held:
                raise TrustError("E-MANIFEST", f"{name} is missing", path=self.root)

    def _entries(self) -> Iterator[tuple[str, int, os.DirEntry[str]]]:
        """Path, descriptor of its folder, and entry of everything that is no folder."""
        waiting = [("", os.dup(self._folder))]
        try:
            while waiting:
                prefix, folder = waiting.pop()
                try:
                    with os.scandir(folder) as found:
                        entries = sorted(found, key=lambda entry: entry.name)
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            inner = os.open(
                                entry.name,
                                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                                dir_fd=folder,
                            )
                            waiting.append((f"{prefix}{entry.name}/", inner))
                        else:
                            yield f"{prefix}{entry.name}", folder, entry
                finally:
                    os.close(folder)
        except OSError as error:
            raise reader.refused(error, self.root, "E-BUNDLE") from error
        finally:
            for _, folder in waiting:
                os.close(folder)

    def size(self, name: str) -> int:
        """Bytes of a held file."""
        return os.fstat(self._held[name]).st_size

    def sha256(self, name: str) -> str:
        """Of what a held file holds now."""
        return reader.sha256_of(self._held[name], self.root / name)

    def read(self, name: str, limit: int) -> tuple[bytes, str]:
        """What a held file holds now, and the sha256 of these very bytes. TrustError if they are
        more than `limit`.
        """
        if self.size(name) > limit:
            raise TrustError(
                "E-MANIFEST", f"{name} is larger than {limit} bytes", path=self.root / name
            )
        data = b"".join(reader.parts(self._held[name], self.root / name, limit))
        return data, hashlib.sha256(data).hexdigest()

    def copy(self, name: str, target: Path) -> str:
        """What a held file holds now, written into a new file that only this user can change, and
        the sha256 of what was written.
        """
        put_parts(target, reader.parts(self._held[name], self.root / name))
        return reader.sha256(target)


def _close(held: dict[str, int]) -> None:
    for number in held.values():
        os.close(number)
