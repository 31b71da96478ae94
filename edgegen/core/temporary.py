"""Temporary files and folders, private to the process and beside what they will become.

Each is locked while it is in use. A killed process leaves its temporaries without their locks, and
the next writer into the same folder removes them, however young they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .locks import names, try_lock

PREFIX = ".edgegen-tmp-"
_OURS = re.compile(re.escape(PREFIX) + r"[0-9a-f]{32}")
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` that only this user can read.

    When the block ends, whatever then has its name is removed.
    """

    def make(path: Path) -> int:
        path.mkdir(mode=0o700)
        return os.open(path, _LOOK | os.O_DIRECTORY)

    path, fd = _made(parent, make)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


@contextlib.contextmanager
def private_file(parent: Path) -> Iterator[tuple[Path, int]]:
    """Yield a new file in `parent` with a descriptor for writing it.

    It is removed when the block ends, unless it was renamed.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    path, fd = _made(parent, lambda new: os.open(new, flags, 0o666))
    try:
        yield path, fd
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a private folder among the system's temporary files.

    The folders that killed processes left there are removed first.
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    with private_folder(parent) as folder:
        yield folder


def _made(parent: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a new temporary, and return its path and locked descriptor.

    If another process sweeps it before it is locked, another one is made.
    """
    while True:
        path = fresh(parent)
        try:
            fd = make(path)
        except FileNotFoundError:
            if parent.is_dir():
                continue
            raise
        try:
            locked = try_lock(fd)
        except OSError:  # without locks on this file system, no other process can remove it either
            locked = True
        if locked and names(fd, path):
            return path, fd
        os.close(fd)


def fresh(parent: Path) -> Path:
    """Return a new name for a temporary in `parent`."""
    return parent / f"{PREFIX}{uuid.uuid4().hex}"


def sweep(folder: Path) -> None:
    """Remove the temporaries in `folder` whose process has ended, as far as that is possible."""
    with contextlib.suppress(OSError):
        for path in [Path(entry) for entry in os.scandir(folder) if _OURS.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_dead(path)


def _remove_dead(path: Path) -> None:
    fd = os.open(path, _LOOK)
    try:
        if try_lock(fd) and names(fd, path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(fd)
