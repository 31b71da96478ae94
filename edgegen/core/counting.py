"""Numbers of things as people say them. (imports nothing heavy)"""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
