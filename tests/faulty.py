"""Things that go wrong at a named moment: what the points of edgegen.core.faults are for."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

from edgegen.core import faults

Act = Callable[[], object]
REFUSALS = ("ENOSPC", "EDQUOT", "EIO", "EXDEV", "EROFS", "EACCES")


def points_of(act: Act) -> list[str]:
    """The points that `act` passes, in order."""
    passed: list[str] = []
    with faults.listening(lambda point, _: passed.append(point)):
        act()
    return passed


def at_hit(number: int, what: Callable[[Path], object]) -> faults.Listener:
    """Does `what` at the `number`-th point that is passed, counted from 0."""
    count = 0

    def listener(_: str, path: Path) -> None:
        nonlocal count
        count += 1
        if count == number + 1:
            what(path)

    return listener


def refuse(name: str) -> Callable[[Path], object]:
    """As the operating system does: an OSError of that name."""

    def raise_it(_: Path) -> None:
        number = getattr(errno, name)
        raise OSError(number, os.strerror(number))

    return raise_it


def kill(_: Path) -> None:
    """As a power cut does, but for what the disk has not got yet."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(number: int, act: Act) -> bool:
    """Run `act` in a fork that is killed at the `number`-th point; whether it got there."""
    pid = os.fork()
    if not pid:
        try:
            with faults.listening(at_hit(number, kill)):
                act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
