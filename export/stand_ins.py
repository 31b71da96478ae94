"""Choose what executes the files of a runtime that cannot run on this machine: the fastest runtime
that computes them exactly.

TensorRT's files hold signed activations and convolutions whose outputs stay in float. ONNX Runtime
multiplies those in float; OpenVINO has INT8 kernels for them once the same integers are written
unsigned. Whether those kernels are exact depends on the processor (16-bit sums overflow without
VNNI), so it is tested, not looked up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Runtime, Session

from .ort import OnnxRuntime
from .ov import OpenVino
from .packages import FileRuntime, absent

if TYPE_CHECKING:
    from onnx import ModelProto

# step of activations and weights in the trial: sums are whole multiples of its square
STEP = 2.0**-7
CHANNELS, SIDE = 32, 6
TOLERANCE = 1e-4  # share of the largest output; an overflow is a thousand times as much


class UnsignedOpenVino(OpenVino):
    """Run OpenVINO on files whose signed activations are first rewritten as unsigned ones."""

    def cannot_run(self) -> str | None:
        return super().cannot_run() or absent("onnx", "export")

    def session(self, file: GraphFile, threads: int) -> Session:
        import onnx

        from .unsigned import unsigned

        moved = unsigned(onnx.load_from_string(file.data())).SerializeToString()
        return super().session(file.of_bytes(moved), threads)


class FloatOnnxRuntime(OnnxRuntime):
    """Run ONNX Runtime with products in float: weights are dequantized once, when the session
    starts, and not at every call.
    """

    settings: ClassVar[Mapping[str, str]] = {
        **OnnxRuntime.settings,
        "session.disable_quant_qdq": "1",
    }


# The key is the type of activations in files whose int8 operators write floats. The fastest comes
# first; the last is exact on every machine.
STAND_INS: dict[str, tuple[type[OpenVino] | type[OnnxRuntime], ...]] = {
    "int8": (UnsignedOpenVino, FloatOnnxRuntime),
    "uint8": (UnsignedOpenVino, FloatOnnxRuntime),
}


def stand_in(target: Runtime) -> FileRuntime:
    """Return what executes that runtime's ONNX files on this machine.

    ONNX Runtime executes files without INT8 and those whose int8 operators write int8 as they are.
    """
    if not target.dialect.int8_ops or target.dialect.outputs:
        return OnnxRuntime()
    *fast, last = STAND_INS[target.dialect.activation]
    for kind in fast:
        if (candidate := kind()).cannot_run() is None and is_exact(kind):
            return candidate
    return last()


@functools.cache
def is_exact(kind: type[Any]) -> bool:
    """Return whether the runtime computes a convolution of the largest integers, behind a Concat,
    as numpy does; tested once for each process.
    """
    activations, weights = _integers()
    values = (activations * STEP).astype(np.float32)
    file = GraphFile.of(Path("trial.onnx"), _trial(weights).SerializeToString())
    made = kind().session(file, 1)(x=values[:, : CHANNELS // 2], z=values[:, CHANNELS // 2 :])
    windows = np.lib.stride_tricks.sliding_window_view(activations, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows, weights) * STEP**2
    return bool(np.abs(made - exact).max() <= TOLERANCE * np.abs(exact).max())


def _integers() -> tuple[np.ndarray, np.ndarray]:
    """Return activations (4, c, h, w) and weights (c, c, 3, 3): the largest integers of one sign
    together, and random others.
    """
    rng = np.random.default_rng(0)
    activations = rng.integers(-127, 128, (4, CHANNELS, SIDE, SIDE))
    weights = rng.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
    activations[0], activations[1], weights[0], weights[1] = 127, -127, 127, -127
    return activations, weights


def _trial(weights: np.ndarray) -> ModelProto:
    """Return a model that joins x and z, quantizes them to int8 and convolves them with these
    weights; y is in float.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "step": np.float32(STEP),
        "zero": np.int8(0),
        "w.int": weights.astype(np.int8),
        "w.scale": np.full(CHANNELS, STEP, np.float32),
        "w.zero": np.zeros(CHANNELS, np.int8),
    }
    nodes = [
        helper.make_node("Concat", ["x", "z"], ["a"], axis=1),
        helper.make_node("QuantizeLinear", ["a", "step", "zero"], ["a.q"]),
        helper.make_node("DequantizeLinear", ["a.q", "step", "zero"], ["a.dq"]),
        helper.make_node("DequantizeLinear", ["w.int", "w.scale", "w.zero"], ["w"], axis=0),
        helper.make_node("Conv", ["a.dq", "w"], ["y"]),
    ]
    half, inside = CHANNELS // 2, SIDE - 2
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "trial",
        [value(name, TensorProto.FLOAT, ["batch", half, SIDE, SIDE]) for name in ("x", "z")],
        [value("y", TensorProto.FLOAT, ["batch", CHANNELS, inside, inside])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
