"""The files of a bundle, opened once and held open, so that all reads see one version of it.

The folder is opened first, and every file is opened relative to it. An export that publishes a new
bundle under the same name exchanges the folders: a process that holds the old folder can still read
it, although its files no longer have names.
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

MOST = 500  # largest number of files in a bundle, because each is held open


class BundleFiles:
    """Open file descriptors by name, which are closed when the object is collected."""

    def __init__(self, root: Path) -> None:
        """Open the folder `root`. InputError if it is not a folder."""
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
        """Return whether the path still leads to the folder that was opened."""
        try:
            now, then = os.stat(self.root), os.fstat(self._folder)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)

    def holds(self, name: str) -> bool:
        """Return whether a file of that name is held open."""
        return name in self._held

    def hold(self, name: str) -> None:
        """Open a file at the top of the folder. InputError for a link, or anything but a file."""
        self._held[name] = reader.descriptor(name, "E-BUNDLE", self._folder)

    def hold_all(self, listed: Collection[str], unlisted: Collection[str]) -> None:
        """Open all files in `listed`, and those in `unlisted` that exist.

        TrustError for a listed file that is missing, and for anything else in the folder.
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
        """Yield the path, the folder's descriptor and the entry of everything but folders."""
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
        """Return the size of a held file in bytes."""
        return os.fstat(self._held[name]).st_size

    def sha256(self, name: str) -> str:
        """Return the sha256 of the present content of a held file."""
        return reader.sha256_of(self._held[name], self.root / name)

    def read(self, name: str, limit: int) -> tuple[bytes, str]:
        """Return the present bytes of a held file and their sha256.

        TrustError if there are more than `limit` bytes.
        """
        if self.size(name) > limit:
            raise TrustError(
                "E-MANIFEST", f"{name} is larger than {limit} bytes", path=self.root / name
            )
        data = b"".join(reader.parts(self._held[name], self.root / name, limit))
        return data, hashlib.sha256(data).hexdigest()

    def copy(self, name: str, target: Path) -> str:
        """Copy the present bytes of a held file to `target` and return the sha256 of the copy."""
        put_parts(target, reader.parts(self._held[name], self.root / name))
        return reader.sha256(target)


def _close(held: dict[str, int]) -> None:
    for number in held.values():
        os.close(number)
