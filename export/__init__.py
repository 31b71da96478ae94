"""Graphs to files: FP32 ONNX, Q/DQ in each runtime's dialect, engines; and the runtimes that
execute them.

A runtime is one file with its dialect and one line in RUNTIMES; none is imported until it is asked
for.
"""

from __future__ import annotations

if __name__ == "export":
    raise ImportError(
        "import edgegen.export: the bare name would load a second copy of every class"
    )

from importlib import import_module
from typing import TYPE_CHECKING

from edgegen.errors import UsageError

if TYPE_CHECKING:
    from edgegen.core.runtime import Runtime

RUNTIMES = {
    "onnxruntime": "edgegen.export.ort:OnnxRuntime",
    "openvino": "edgegen.export.ov:OpenVino",
    "tensorrt-rtx": "edgegen.export.tensorrt:TensorRtRtx",
    "tensorrt": "edgegen.export.tensorrt:TensorRt",
    "tensorrt-rtx-fp16": "edgegen.export.tensorrt:TensorRtRtxHalf",
    "tensorrt-fp16": "edgegen.export.tensorrt:TensorRtHalf",
    "onnxruntime-cuda": "edgegen.export.ort:OnnxRuntimeCuda",
    "onnxruntime-tensorrt": "edgegen.export.ort:OnnxRuntimeTensorRt",
    "onnxruntime-openvino": "edgegen.export.ort:OnnxRuntimeOpenVino",
    "reference": "edgegen.export.reference:OnnxReference",
}

# on the exporting machine: calibrates and executes FP32; who executes the Q/DQ files of a runtime
# that cannot run there is stand_ins.STAND_INS
STAND_IN = "onnxruntime"


def runtime(name: str) -> Runtime:
    """The runtime of that name, whether or not it works here: ask its missing() and
    cannot_run().
    """
    if name not in RUNTIMES:
        raise UsageError("E-RUNTIME", f"unknown runtime {name!r}; known: {', '.join(RUNTIMES)}")
    module, _, attribute = RUNTIMES[name].partition(":")
    loaded: Runtime = getattr(import_module(module), attribute)()
    return loaded


def executing(target: Runtime) -> Runtime:
    """Who executes a runtime's files on this machine: itself, or its stand-in where it cannot."""
    if target.cannot_run() is None:
        return target
    from .stand_ins import stand_in

    return stand_in(target)
