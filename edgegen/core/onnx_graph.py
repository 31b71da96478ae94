"""A graph that came as an ONNX file, which torch cannot execute. (numpy only)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .spec import Array, TensorSpec


@dataclass(frozen=True)
class OnnxGraph:
    """A graph that came as an ONNX file.

    model: the bytes of a whole ONNX file; call: runs the graph as it was before edgegen rewrote it,
    so that the parity check compares the file with the original; parameters: number of trained
    parameters.
    """

    model: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    call: Callable[..., Array] = field(repr=False)
    parameters: int = 0

    def executed(self, device: object = "cpu") -> Callable[..., Array]:
        """Return the function that runs the graph, always on the CPU: named arrays to an array."""
        return self.call
