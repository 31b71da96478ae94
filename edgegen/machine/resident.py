"""Memory that this process has had, and that a new one could take, as the kernel tells it."""

from __future__ import annotations

import resource
from pathlib import Path

from ..core.reader import read_bytes
from ..errors import EdgegenError

_PEAK, _FREE = "VmHWM:", "MemAvailable:"
_MOST = 1 << 16  # bytes of such a file


def peak_bytes() -> int:
    """The largest resident set of this process so far. Not ru_maxrss, where the kernel says it
    itself: that one keeps the peak of whoever started the process.
    """
    try:
        return _told(Path("/proc/self/status"), _PEAK)
    except (EdgegenError, StopIteration, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def free_bytes() -> int:
    """Of memory that a new process could take without another one losing its own."""
    return _told(Path("/proc/meminfo"), _FREE)


def _told(place: Path, name: str) -> int:
    lines = read_bytes(place, _MOST).decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) << 10
