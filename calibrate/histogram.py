"""Stream histograms of where a tensor's values lie between the extremes that a first pass over the
same samples found.

The bins are fixed before the first sample, so that memory never grows and the counts of batches, or
of processes, simply add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.plan import Range
from edgegen.core.spec import Array

from .observe import session

BINS = 2048  # eight for each step of an 8-bit code that covers the whole range


@dataclass(frozen=True)
class Histogram:
    """Hold counts (BINS,) of a tensor's values in equal bins over `seen`, without the `zeros` that
    are exactly 0 and cost nothing.
    """

    seen: Range
    counts: np.ndarray
    zeros: int

    @property
    def width(self) -> float:
        """Return the width of a bin."""
        return (self.seen.high - self.seen.low) / len(self.counts)

    @property
    def centres(self) -> np.ndarray:
        """Return the centres of the bins, (BINS,)."""
        return self.seen.low + self.width * (np.arange(len(self.counts)) + 0.5)


@dataclass
class Histograms:
    """Count the values of one graph's tensors; `seen` has the extremes of each, which are the ends
    of its bins.
    """

    seen: Mapping[str, Range]
    counts: np.ndarray = field(init=False)
    zeros: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = tuple(self.seen)
        self.counts = np.zeros((len(self.tensors), BINS), np.int64)
        self.zeros = np.zeros(len(self.tensors), np.int64)

    def add(self, values: Sequence[Array]) -> None:
        """Add one batch: the values of each tensor in the order of `tensors`."""
        for k, (tensor, x) in enumerate(zip(self.tensors, values, strict=True)):
            ends = self.seen[tensor]
            if ends.low == ends.high:
                self.zeros[k] += x.size
                continue
            filled = x[x != 0]
            places = (filled - np.float32(ends.low)) * np.float32(BINS / (ends.high - ends.low))
            # sums in another order may lie a rounding error beyond the ends
            self.counts[k] += np.bincount(
                np.clip(places, 0, BINS - 1).astype(np.int32), minlength=BINS
            )
            self.zeros[k] += x.size - filled.size

    def of(self, tensor: str) -> Histogram:
        k = self.tensors.index(tensor)
        return Histogram(self.seen[tensor], self.counts[k], int(self.zeros[k]))


def fetched(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return the model with the values of `tensors` as further outputs, in their order and in
    float32.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    # a Cast copies each one, because an input or an output cannot be another output
    for k, tensor in enumerate(tensors):
        out.graph.node.append(
            helper.make_node("Cast", [tensor], [f"fetched.{k}"], to=TensorProto.FLOAT)
        )
        out.graph.output.append(
            helper.make_tensor_value_info(f"fetched.{k}", TensorProto.FLOAT, None)
        )
    return out


class HistogramCounter:
    """Execute one graph for the sampler and count: pass it as that graph's `call`, on the samples
    that gave `seen`.
    """

    def __init__(self, model: onnx.ModelProto, seen: Mapping[str, Range], threads: int) -> None:
        self.histograms = Histograms(seen)
        self._session = session(fetched(model, self.histograms.tensors), threads)

    def __call__(self, **inputs: Array) -> Array:
        out, *values = self._session.run(None, inputs)
        self.histograms.add(values)
        result: Array = out
        return result
