"""Files and folders that are not there yet: private, beside what they will become, and gone with
the process that made them.

Each is locked for as long as it is in use. A process that is killed leaves its temporaries behind
without their locks; whoever writes into the same folder next removes them, however young they are.
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
    """A folder that only this user can read, in `parent`; whatever has its name when the block ends
    is removed.
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
    """A new file in `parent` and a descriptor to write it; removed when the block ends, unless it
    has another name by then.
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
    """A private folder where the system keeps temporary files; what killed processes left there is
    removed first.
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    with private_folder(parent) as folder:
        yield folder


def _made(parent: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new temporary with its locked descriptor. Between its making and its lock another process
    may sweep it: then it was not, and another one is made.
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
        except OSError:  # a file system without locks: nobody can take it for dead either
            locked = True
        if locked and names(fd, path):
            return path, fd
        os.close(fd)


def fresh(parent: Path) -> Path:
    """A name for a temporary in `parent`."""
    return parent / f"{PREFIX}{uuid.uuid4().hex}"


def sweep(folder: Path) -> None:
    """Remove the temporaries in `folder` whose process has ended. What cannot be removed stays: it
    is in nobody's way.
    """
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
