"""Convert sizes such as 500MB or 8GB; this module imports nothing heavy."""

from __future__ import annotations

import math

from ..errors import UsageError

FULL = 4  # bytes of a number in full precision
UNITS = {"MB": 10**6, "GB": 10**9}


def bytes_of(size: str) -> int:
    """Return the bytes of a size such as 500MB or 7.5GB. Raises UsageError for anything else."""
    try:
        value = float(size[:-2]) * UNITS[size[-2:].upper()]
    except (KeyError, ValueError):
        value = math.nan
    if not 1e6 <= value < math.inf:
        raise UsageError("E-USAGE", f"--memory must be such as 500MB or 8GB, got {size!r}")
    return int(value)


def bytes_in_words(size: float) -> str:
    """Return a size in the units that people use, such as 12 MB or 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
