"""One writer per output: a lock file beside it that names its holder and ends with its process."""

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
MOST = 4096  # bytes read of a holder's description of itself
WORDS = 80  # characters kept of its command line
_ELSEWHERE = (errno.EACCES, errno.EAGAIN)  # another process holds the lock
_OPEN = (
    os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # a link is not followed, a pipe not waited for


def try_lock(fd: int) -> bool:
    """Try to take the exclusive lock on an open file or folder, and return whether that worked.

    The kernel releases the lock when the process ends, however it ends. OSError if the file system
    has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _ELSEWHERE:
            return False
        raise
    return True


def names(fd: int, path: Path) -> bool:
    """Return whether `path` still leads to the file that the descriptor has open."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def parents_of(target: Path) -> Iterator[None]:
    """Create the missing folders above `target`, and remove those left empty after the block."""
    missing = [folder for folder in target.parents if not folder.exists()]  # the nearest first
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # if one is not empty, neither are those above it
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def held(target: Path) -> Iterator[None]:
    """Hold the lock on writing `target` while the block runs.

    The lock is NAME.lock beside it, outside of what is published, and is removed when the block
    ends. Busy names the process, machine and command of another holder; ResourceError if the file
    system has no locks.
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
                    path.unlink()  # while locked, so that a waiting process sees that it is gone
            os.close(fd)


def _taken(path: Path, target: Path) -> int:
    """Return a descriptor that holds the lock. Busy if another process holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "the lock's name is taken by no file of ours")
            if not try_lock(fd):
                raise Busy("E-LOCKED", f"{_holder(fd)} is writing it", path=target)
            if names(fd, path):  # otherwise its last holder has just removed it: try again
                os.ftruncate(fd, 0)
                os.pwrite(fd, json.dumps(_self()).encode(), 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _self() -> dict[str, object]:
    """Return the description of this process that goes into the lock file."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else ""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command[:WORDS],
    }


def _holder(fd: int) -> str:
    """Return a phrase that names the holder of a lock.

    A lock file without a description is from an older edgegen, or was taken just now.
    """
    try:
        said = json.loads(os.pread(fd, MOST, 0))
        return "process {pid} on {host} ({command}, since {since})".format(**said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "another process"
