"""A graph that came as ONNX: nobody traced it, and torch cannot execute it. (numpy only)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .spec import Array, TensorSpec


@dataclass(frozen=True)
class OnnxGraph:
    """model: a whole ONNX file; call: who executes what the graph was before edgegen rewrote it, so
    that parity holds the file to it; parameters: numbers that were trained.
    """

    model: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    call: Callable[..., Array] = field(repr=False)
    parameters: int = 0

    def executed(self, device: object = "cpu") -> Callable[..., Array]:
        """Named arrays in, an array back, on the CPU whatever the device is."""
        return self.call
