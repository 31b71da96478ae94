"""One writer an output: a lock beside it that ends with its holder, and says who that is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import Busy, ResourceError
from .disk import disk_error, refusals
from .faults import hit

SUFFIX = ".lock"
MOST = 4096  # bytes that are read of what a holder says of itself
WORDS = 80  # characters of its command line
_ELSEWHERE = (errno.EACCES, errno.EAGAIN)  # another process has it
_OPEN = (
    os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # a link is not followed, a pipe not waited for


def try_lock(fd: int) -> bool:
    """Whether this descriptor now holds the only lock on its file or folder. The kernel takes it
    back when the process ends, however it ends. OSError where the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return False
        raise
    return True


def names(fd: int, path: Path) -> bool:
    """Whether the path still leads to what the descriptor has open."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def parents_of(target: Path) -> Iterator[None]:
    """The folders above `target` are there while the block runs; those that were made for it go
    with it where nothing came into them.
    """
    missing = [folder for folder in target.parents if not folder.exists()]  # the nearest first
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty: the folders above it are not either
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def held(target: Path) -> Iterator[None]:
    """Nobody else writes `target` while the block runs: its lock is NAME.lock beside it, outside of
    what is published, and goes when the block ends.

    Raises Busy with the holder's process, machine and command where there is one.
    """
    place = target.parent.resolve() / target.name
    path = place.with_name(place.name + SUFFIX)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(parents_of(path))
            fd = _taken(path, target)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise ResourceError(
                    "E-LOCK-FS",
                    "this file system has no locks, and two writers would mix their files",
                    path=path,
                    hint="choose a folder on a local disk",
                ) from error
            raise disk_error(error, path) from error
        try:
            with refusals(target):
                hit("lock.taken", path)
            yield
            with refusals(target):
                hit("lock.left", path)
        finally:
            with contextlib.suppress(OSError):
                if names(fd, path):
                    path.unlink()  # while it is held: who waits for it sees that its name has gone
            os.close(fd)


def _taken(path: Path, target: Path) -> int:
    """A descriptor that holds the lock; Busy where another does."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "the lock's name is taken by no file of ours")
            if not try_lock(fd):
                raise Busy("E-LOCKED", f"{_holder(fd)} is writing it", path=target)
            if names(fd, path):  # else its last holder has just removed it
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(_self()).encode(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _self() -> dict[str, object]:
    """What a holder says of itself."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command[:WORDS],
    }


def _holder(fd: int) -> str:
    """Who holds it, in words; a lock that says nothing is of an older edgegen, or just taken."""
    try:
        said = json.loads(os.pread(fd, MOST, 0))
        return "process {pid} on {host} ({command}, since {since})".format(**said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "another process"
