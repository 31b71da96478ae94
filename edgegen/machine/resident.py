"""Read from the kernel how much memory this process has had at most, and how much a new one could
take.
"""

from __future__ import annotations

import resource
from pathlib import Path

from ..core.reader import read_bytes
from ..errors import EdgegenError

_PEAK, _FREE = "VmHWM:", "MemAvailable:"
_MOST = 1 << 16  # most bytes of such a file


def peak_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes.

    ru_maxrss is only the fallback, because it keeps the peak of the process that started this one.
    """
    try:
        return _told(Path("/proc/self/status"), _PEAK)
    except (EdgegenError, StopIteration, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def free_bytes() -> int:
    """Return the bytes of memory that a new process could take without another one losing
    its own.
    """
    return _told(Path("/proc/meminfo"), _FREE)


def _told(place: Path, name: str) -> int:
    lines = read_bytes(place, _MOST).decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) << 10
