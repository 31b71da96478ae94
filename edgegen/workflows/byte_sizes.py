"""Sizes as people say them: 500MB, 8GB. (imports nothing heavy)"""

from __future__ import annotations

import math

from ..errors import UsageError

UNITS = {"MB": 10**6, "GB": 10**9}


def bytes_of(size: str) -> int:
    """Of a size such as 500MB or 7.5GB; UsageError for what is none."""
    try:
        value = float(size[:-2]) * UNITS[size[-2:].upper()]
    except (KeyError, ValueError):
        value = math.nan
    if not 1e6 <= value < math.inf:
        raise UsageError("E-USAGE", f"--memory must be such as 500MB or 8GB, got {size!r}")
    return int(value)


def bytes_in_words(size: float) -> str:
    """As people say it: 12 MB, 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
