"""Convert times such as 90s, 45m or 2h; this module imports nothing heavy."""

from __future__ import annotations

import math

from ..errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds_of(duration: str) -> float:
    """Return the seconds of a time such as 90s, 45m or 2h. Raises UsageError for anything else."""
    try:
        value = float(duration[:-1]) * UNITS[duration[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError("E-USAGE", f"--time must be such as 90s, 45m or 2h, got {duration!r}")
    return value


def in_words(seconds: float) -> str:
    """Return a time for people, to the nearest second or minute: 40 s, 12 min, 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
