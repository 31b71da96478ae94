"""Counts of things as English words. (imports nothing heavy)"""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return a count with its noun in singular or plural, such as "1 thread" or "2 threads"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
