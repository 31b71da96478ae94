"""What one Q/DQ file rounds, as data: export reads it off the file that ships, training imitates
it. (numpy only)
"""

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

    codes: Mapping[str, Code]  # tensor -> its code
    reads: Mapping[str, tuple[str, ...]]  # operation -> tensors that it reads rounded
    # operation -> its weight as rounded: symmetric, a step an output channel
    weights: Mapping[str, Array]
    # constants of the graph before rounding, its channels made even
    values: Mapping[str, Array]
    # magnitude of the largest weight as an integer, which each row's largest has; 0 without weights
    largest_weight: int = 127

    @property
    def int8(self) -> frozenset[str]:
        """Operations whose weight is rounded."""
        return frozenset(self.weights)

    @property
    def places(self) -> frozenset[tuple[str, str]]:
        """All that rounds: an operation with a tensor that it reads, or with "" for its weight."""
        return frozenset((op, t) for op, tensors in self.reads.items() for t in tensors) | {
            (op, "") for op in self.int8
        }
