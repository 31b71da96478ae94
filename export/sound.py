"""Check that a model made by this process is sound ONNX, without reading weights that lie
in files.
"""

from __future__ import annotations

import onnx
from onnx import helper

from edgegen.core.weights import is_apart


def check(model: onnx.ModelProto) -> None:
    """Raise the error of onnx's checker for a model that is not sound."""
    apart = [tensor for tensor in model.graph.initializer if is_apart(tensor)]
    if not apart:
        onnx.checker.check_model(model, full_check=True)
        return
    light = onnx.ModelProto()
    light.CopyFrom(model)
    # the checker would look for the weights' file, but does not know where this process keeps it
    del light.graph.initializer[:]
    light.graph.initializer.extend(t for t in model.graph.initializer if not is_apart(t))
    light.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in apart
    )
    onnx.checker.check_model(light, full_check=True)
