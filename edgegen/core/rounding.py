"""The rounding of one Q/DQ file as data, which export reads from the shipped file and training
imitates. (numpy only)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .spec import Array


@dataclass(frozen=True)
class Code:
    """A quantization: real = step * (whole - zero), where the integer `whole` is in low .. high."""

    step: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Rounding:
    """The rounding of one graph, in which an operation is named by its output tensor."""

    codes: Mapping[str, Code]  # quantization by tensor
    reads: Mapping[str, tuple[str, ...]]  # the rounded tensors that each operation reads
    # rounded weight by operation: symmetric, with one step per output channel
    weights: Mapping[str, Array]
    # the graph's constants before rounding, after its channels were equalized
    values: Mapping[str, Array]
    # integer magnitude of the largest weight of every channel; 0 without weights
    largest_weight: int = 127

    @property
    def int8(self) -> frozenset[str]:
        """The operations whose weight is rounded."""
        return frozenset(self.weights)

    @property
    def places(self) -> frozenset[tuple[str, str]]:
        """All places of rounding: (operation, tensor that it reads), or "" for its weight."""
        return frozenset((op, t) for op, tensors in self.reads.items() for t in tensors) | {
            (op, "") for op in self.int8
        }
