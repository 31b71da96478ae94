"""Stream activation statistics: every tensor is reduced to its minimum and maximum inside the graph
that runs.

Memory grows with the number of tensors and never with samples, because no activation leaves the
runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.offline import quietly
from edgegen.core.plan import Range, is_rounded
from edgegen.core.samplers import UNTIMED, told
from edgegen.core.spec import Array
from edgegen.core.weights import is_apart, stored
from edgegen.errors import InputError

ENOUGH = 8  # with fewer samples a range is chance


@dataclass
class ActivationStats:
    """Hold the statistics of one graph: each tensor's extremes over all samples, and the number of
    samples at each of the sampler's timesteps.
    """

    tensors: tuple[str, ...]
    timesteps: tuple[float, ...]
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)
    coverage: dict[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self.low, self.high = np.zeros(len(self.tensors)), np.zeros(len(self.tensors))
        self.coverage = dict.fromkeys(map(told, self.timesteps), 0)

    def add(self, low: Sequence[float] | Array, high: Sequence[float] | Array, t: Array) -> None:
        """Add one batch's extremes, in the order of `tensors`, and its timesteps (b,).

        Raises InputError, which names the tensor, if one is not finite.
        """
        new_low, new_high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        bad = ~(np.isfinite(new_low) & np.isfinite(new_high))
        if bad.any():
            raise InputError(
                "E-CALIB",
                f"{self.tensors[int(bad.argmax())]} holds NaN or infinite values while calibrating",
            )
        np.minimum(self.low, new_low, out=self.low)
        np.maximum(self.high, new_high, out=self.high)
        for timestep in t:
            self.coverage[float(timestep)] += 1

    def check(self) -> None:
        """Raise InputError unless every timestep of the sampler was seen ENOUGH times and some
        tensor was not 0.
        """
        for timestep, count in self.coverage.items():
            if count < ENOUGH:
                raise InputError(
                    "E-CALIB",
                    f"timestep {timestep:.9g} was calibrated on {count} samples, {ENOUGH} are "
                    "needed",
                )
        still = [
            t for t, a, b in zip(self.tensors, self.low, self.high, strict=True) if a == b == 0
        ]
        if len(still) == len(self.tensors):
            raise InputError(
                "E-CALIB",
                "every tensor stayed 0 while calibrating: the weights are not a trained model's",
            )

    def ranges(self) -> dict[str, Range]:
        """Return the ranges that a plan stores."""
        return {
            t: Range(float(a), float(b))
            for t, a, b in zip(self.tensors, self.low, self.high, strict=True)
        }


def instrument(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return the model with three more outputs: minima, maxima and sums of `tensors`, one vector
    each.

    The sums are there because ONNX Runtime's minimum and maximum ignore a NaN.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for op, name in (
        ("ReduceMin", "observed_low"),
        ("ReduceMax", "observed_high"),
        ("ReduceSum", "observed_sum"),
    ):
        parts = []
        for k, tensor in enumerate(tensors):
            parts.append(f"{name}.{k}")
            out.graph.node.append(helper.make_node(op, [tensor], [f"{name}.{k}.0"], keepdims=0))
            out.graph.node.append(
                helper.make_node("Reshape", [f"{name}.{k}.0", "observed.one"], [parts[-1]])
            )
        out.graph.node.append(helper.make_node("Concat", parts, [name], axis=0))
        out.graph.output.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(tensors)])
        )
    out.graph.initializer.append(helper.make_tensor("observed.one", TensorProto.INT64, [1], [1]))
    return out


def session(model: onnx.ModelProto, threads: int) -> Any:
    """Return an ONNX Runtime session on the CPU that keeps no memory between calls.

    Rounded weights are left out: they are for INT8 files, and no node of the model reads them.
    """
    ort = quietly("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # the arena would keep the largest batch's memory forever
    read = onnx.ModelProto()
    read.CopyFrom(model)
    del read.graph.initializer[:]
    read.graph.initializer.extend(t for t in model.graph.initializer if not is_rounded(t.name))
    apart = [tensor for tensor in read.graph.initializer if is_apart(tensor)]
    if apart:
        made = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        values = [made(stored(tensor), tensor.data_type) for tensor in apart]
        options.add_external_initializers([tensor.name for tensor in apart], values)
    return ort.InferenceSession(
        read.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


class Observer:
    """Execute one instrumented graph for the sampler and keep its statistics: pass it as that
    graph's `call`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        tensors: tuple[str, ...],
        timesteps: tuple[float, ...],
        threads: int,
    ) -> None:
        self._timed = any(value.name == "t" for value in model.graph.input)
        self._session = session(instrument(model, tensors), threads)
        self.stats = ActivationStats(tensors, timesteps if self._timed else UNTIMED)

    def __call__(self, **inputs: Array) -> Array:
        out, low, high, total = self._session.run(None, inputs)
        t = inputs["t"] if self._timed else np.zeros(len(out), np.float32)
        self.stats.add(np.where(np.isfinite(total), low, np.nan), high, t)
        result: Array = out
        return result
