"""Write graphs to files (FP32 ONNX, Q/DQ in each runtime's dialect, engines) and define the
runtimes that execute them.

A runtime is one file with its dialect and one line in RUNTIMES; none is imported before it is asked
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

# calibrates and executes FP32 on the exporting machine; stand_ins.STAND_INS names what executes the
# Q/DQ files of a runtime that cannot run there
STAND_IN = "onnxruntime"


def runtime(name: str) -> Runtime:
    """Return the runtime of that name, whether or not it works here: its missing() and cannot_run()
    say so.

    Raises UsageError for an unknown name.
    """
    if name not in RUNTIMES:
        raise UsageError("E-RUNTIME", f"unknown runtime {name!r}; known: {', '.join(RUNTIMES)}")
    module, _, attribute = RUNTIMES[name].partition(":")
    loaded: Runtime = getattr(import_module(module), attribute)()
    return loaded


def executing(target: Runtime) -> Runtime:
    """Return what executes a runtime's files on this machine: the runtime itself, or its stand-in
    if it cannot run.
    """
    if target.cannot_run() is None:
        return target
    from .stand_ins import stand_in

    return stand_in(target)
