"""The one reader of files that somebody else may have put where they are.

A path may name a pipe that nobody writes into, a device without an end, a socket, or a file larger
than the memory. Opened here, it never waits, it is a regular file, and it has a largest size; what
was opened stays the same file whatever its name comes to mean.
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
# what open(2) says of a socket, and of a device that has no driver
_NO_FILE = (errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV)
KEY_BYTES = 64 << 10  # largest file of a key or a passphrase
GRAPH_BYTES = 2 << 30  # largest ONNX file, which is what its format can hold
# how a file begins whose content was not fetched: who keeps it, and what fetches it
POINTERS = {
    b"version https://git-lfs.": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
_ANNEX = "/annex/objects/"  # in a link to what git-annex keeps
LARGEST = 16 << 30  # bytes of a file that is only hashed
Places = Path | str | Sequence[Path | str] | None  # files or folders


def descriptor(path: Path | str, code: str, folder: int | None = None) -> int:
    """A regular file, opened; the caller closes it. InputError for anything else, NotFetched for a
    pointer to a file.

    folder: descriptor of the folder that `path` is the name of a file in; a link in it is none.
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
    """NotFetched where an open file, which had that path, is a pointer to another."""
    with contextlib.suppress(OSError):  # who reads it will be told
        if keeper := pointer(os.pread(held, max(map(len, POINTERS)), 0)):
            raise _not_fetched(*keeper, path)


def pointer(data: bytes) -> tuple[str, str] | None:
    """Who keeps the content of a file that begins so, and what fetches it; None for a file that is
    no pointer.
    """
    return next((of for start, of in POINTERS.items() if data.startswith(start)), None)


def is_annex_link(path: Path | str, folder: int | None = None) -> bool:
    """Whether it is a symbolic link to where git-annex would keep the content."""
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
    """The sentence for an operating system's refusal to open or read."""
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
    """A regular file to read from, closed at the end of the block. InputError for anything else."""
    with open(descriptor(path, code), "rb") as file:
        yield file


def read_bytes(path: Path, limit: int, code: str = "E-FILE") -> bytes:
    """What a regular file of at most `limit` bytes holds. InputError for anything else."""
    with opened(path, code) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            # it may have grown since, and files of the kernel say that they are empty
            data = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise refused(error, path, code) from error
    if max(size, len(data)) > limit:
        raise InputError(code, f"the file is larger than {limit} bytes", path=path)
    return data


def mapped(path: Path, offset: int, length: int) -> memoryview:
    """Bytes of a regular file, read where they are looked at. InputError for anything else, and for
    a file that is too short.
    """
    if not length:  # which no system maps
        return memoryview(b"")
    with opened(path) as file:
        first = offset - offset % mmap.ALLOCATIONGRANULARITY
        if offset + length > os.fstat(file.fileno()).st_size:
            raise InputError("E-FILE", f"the file ends before byte {offset + length}", path=path)
        whole = mmap.mmap(file.fileno(), offset - first + length, prot=mmap.PROT_READ, offset=first)
    return memoryview(whole)[offset - first :]


def parts(held: int, path: Path, limit: int = LARGEST) -> Iterator[bytes]:
    """What an open file, which had that path, holds from its beginning, part by part, and no more
    than `limit`. InputError where the disk does not give it.
    """
    place = 0
    try:
        while part := os.pread(held, min(_PART, limit - place), place):
            yield part
            place += len(part)
    except OSError as error:
        raise refused(error, path, "E-FILE") from error


def sha256_of(held: int, path: Path) -> str:
    """Of what an open file, which had that path, holds."""
    found = hashlib.sha256()
    for part in parts(held, path):
        found.update(part)
    return found.hexdigest()


def sha256(path: Path) -> str:
    """Of a file. InputError for anything else than a regular one, or a larger than any of ours."""
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise InputError("E-FILE", f"the file is larger than {LARGEST} bytes", path=path)
        return sha256_of(file.fileno(), path)
