"""Syncing to disk, and the error messages for a disk that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FROM_WRITING = (*FULL, errno.EROFS)  # errors that only writing can cause


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def nearest(path: Path) -> Path:
    """Return the nearest existing folder at or above `path`, whose disk `path` will be on."""
    return next((p for p in (path, *path.resolve().parents) if p.is_dir()), Path("/"))


def disk_error(error: OSError, path: Path) -> ResourceError:
    """Return the error for a failed write to `path`, with the free space if the disk is full."""
    if error.errno in FULL:
        free = shutil.disk_usage(path.parent if path.parent.exists() else "/").free
        return ResourceError(
            "E-DISK-FULL", f"cannot write: {error.strerror}; {free / 1e6:.0f} MB free", path=path
        )
    code = "E-DISK-RO" if error.errno == errno.EROFS else "E-DISK"
    return ResourceError(
        code, f"cannot write: {error.strerror or error}", path=path, hint="choose another -o folder"
    )


@contextlib.contextmanager
def refusals(target: Path, only: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn an OSError of the block into a ResourceError about `target`.

    only: if given, the errno values to translate; other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise disk_error(error, target) from error
