"""What one Q/DQ file rounds, as data: export reads it off the file that ships, training imitates it. (numpy only)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .spec import Array


@dataclass(frozen=True)
class Code:
    """real = step * (whole - zero), whole in low .. high."""

    step: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Rounding:
    """Of one graph; operations go by their output."""

    codes: Mapping[str, Code]             # tensor -> its code
    reads: Mapping[str, tuple[str, ...]]  # operation -> tensors that it reads rounded
    int8: frozenset[str]                  # operations whose weight is rounded too: symmetric, a step an output channel
    values: Mapping[str, Array]           # constants of the graph before rounding, its channels made even
