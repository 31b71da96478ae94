"""The only reader of files that may come from somebody else.

A path may name a pipe that nobody writes to, an endless device, a socket, or a file larger than
memory. This reader never blocks on opening, accepts only regular files and limits their size. An
opened file stays the same even if its name later leads to another.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..errors import EdgegenError, InputError, NotFetched, ResourceError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PART = 1 << 20  # bytes read at once
# the errors of open(2) for a socket, and for a device without a driver
_NO_FILE = (errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV)
KEY_BYTES = 64 << 10  # largest file of a key or a passphrase
GRAPH_BYTES = 2 << 30  # largest ONNX file, a limit of the format
# The first bytes of a pointer file, with the tool that keeps the content and its fetch command.
POINTERS = {
    b"version https://git-lfs.": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
_ANNEX = "/annex/objects/"  # part of every link to a file that git-annex keeps
LARGEST = 16 << 30  # largest file that is only hashed, in bytes
Places = Path | str | Sequence[Path | str] | None  # files or folders


def descriptor(path: Path | str, code: str, folder: int | None = None) -> int:
    """Open a regular file and return its descriptor, which the caller closes.

    folder: descriptor of the folder in which `path` is a name; a link is then refused. InputError
    with `code` for anything but a regular file, NotFetched for a pointer to a file.
    """
    flags = _FLAGS if folder is None else _FLAGS | os.O_NOFOLLOW
    try:
        found = os.open(path, flags, dir_fd=folder)
    except (OSError, ValueError) as error:
        if is_annex_link(path, folder):
            raise _not_fetched(*POINTERS[_ANNEX.encode()], path) from error
        raise refused(error, path, code) from error
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise InputError(code, "not a file", path=path)
    try:
        refuse_pointer(found, path)
    except NotFetched:
        os.close(found)
        raise
    return found


def refuse_pointer(held: int, path: Path | str) -> None:
    """Raise NotFetched if the open file, named `path` in the message, is a pointer."""
    with contextlib.suppress(OSError):  # the later read will report it
        if keeper := pointer(os.pread(held, max(map(len, POINTERS)), 0)):
            raise _not_fetched(*keeper, path)


def pointer(data: bytes) -> tuple[str, str] | None:
    """Return the keeper and the fetch command if a file that begins with `data` is a pointer.

    None for any other file.
    """
    return next((of for start, of in POINTERS.items() if data.startswith(start)), None)


def is_annex_link(path: Path | str, folder: int | None = None) -> bool:
    """Return whether `path` is a symbolic link to where git-annex would keep the content."""
    try:
        return _ANNEX in os.readlink(path, dir_fd=folder)
    except (OSError, ValueError):
        return False


def _not_fetched(keeper: str, command: str, path: Path | str) -> NotFetched:
    return NotFetched(
        "E-NOT-FETCHED",
        f"it is a {keeper} pointer, not the file itself",
        path=path,
        hint=f"run `{command}` where it was cloned",
    )


def refused(error: OSError | ValueError, path: Path | str, code: str) -> EdgegenError:
    """Return the error for a failed attempt to open or read `path`."""
    if isinstance(error, ValueError):  # a name with a null byte
        return InputError(code, f"cannot be read: {error}", path=path)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceError(
            "E-OPEN-FILES", "this process may open no more files", path=path, hint="ulimit -n 1024"
        )
    if error.errno in _NO_FILE:
        return InputError(code, "not a file", path=path)
    return InputError(code, f"cannot be read: {error.strerror}", path=path)


@contextlib.contextmanager
def opened(path: Path, code: str = "E-FILE") -> Iterator[BinaryIO]:
    """Open a regular file for the block. InputError for anything else."""
    with open(descriptor(path, code), "rb") as file:
        yield file


def read_bytes(path: Path, limit: int, code: str = "E-FILE") -> bytes:
    """Return the content of a regular file of at most `limit` bytes. InputError otherwise."""
    with opened(path, code) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # The file may have grown since, and files of /proc and /sys report a size of 0.
            data = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise refused(error, path, code) from error
    if max(size, len(data)) > limit:
        raise InputError(code, f"the file is larger than {limit} bytes", path=path)
    return data


def mapped(path: Path, offset: int, length: int) -> memoryview:
    """Map `length` bytes of a regular file from `offset`, so that they are read on access.

    InputError for anything but a regular file, and for a file that is too short.
    """
    if not length:  # an empty mapping is an error
        return memoryview(b"")
    with opened(path) as file:
        first = offset - offset % mmap.ALLOCATIONGRANULARITY
        if offset + length > os.fstat(file.fileno()).st_size:
            raise InputError("E-FILE", f"the file ends before byte {offset + length}", path=path)
        whole = mmap.mmap(file.fileno(), offset - first + length, prot=mmap.PROT_READ, offset=first)
    return memoryview(whole)[offset - first :]


def parts(held: int, path: Path, limit: int = LARGEST) -> Iterator[bytes]:
    """Yield the content of an open file in parts, from its beginning, at most `limit` bytes.

    path: for messages. InputError if reading fails.
    """
    place = 0
    try:
        while part := os.pread(held, min(_PART, limit - place), place):
            yield part
            place += len(part)
    except OSError as error:
        raise refused(error, path, "E-FILE") from error


def sha256_of(held: int, path: Path) -> str:
    """Return the sha256 of an open file's content; path: for messages."""
    found = hashlib.sha256()
    for part in parts(held, path):
        found.update(part)
    return found.hexdigest()


def sha256(path: Path) -> str:
    """Return the sha256 of a regular file. InputError for anything else, or over LARGEST bytes."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise InputError("E-FILE", f"the file is larger than {LARGEST} bytes", path=path)
        return sha256_of(file.fileno(), path)
