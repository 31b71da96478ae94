"""Read what a Q/DQ file rounds from the file itself."""

from __future__ import annotations

import numpy as np
import onnx

from edgegen.core.layers import LAYERS, weight_axis
from edgegen.core.plan import is_rounded
from edgegen.core.rounding import Code, Rounding
from edgegen.core.spec import Array
from edgegen.core.weights import GraphConstants


def rounding(before: onnx.ModelProto, file: onnx.ModelProto) -> Rounding:
    """Return the rounding in a file that qdq.quantize made from `before`."""
    constants = GraphConstants(file.graph)
    codes: dict[str, Code] = {}
    for node in file.graph.node:
        if node.op_type == "QuantizeLinear":
            step = constants[node.input[1]]
            zero: np.ndarray = constants[node.input[2]]
            reach = np.iinfo(zero.dtype)
            codes[node.input[0]] = Code(float(step), int(zero), int(reach.min), int(reach.max))
    values = {
        name: value for name, value in GraphConstants(before.graph).items() if not is_rounded(name)
    }
    reads: dict[str, tuple[str, ...]] = {}
    weights: dict[str, Array] = {}
    largest = 0
    written = {
        node.output[0]: node for node in file.graph.node if node.op_type == "DequantizeLinear"
    }
    for node in file.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if found := tuple(
            t
            for name in node.input
            if name.endswith(".dq") and (t := name.removesuffix(".dq")) in codes
        ):
            reads[node.output[0]] = found
        if node.op_type in LAYERS and node.input[1].endswith(".dq"):
            whole, step = (constants[name] for name in written[node.input[1]].input[:2])
            largest = max(largest, int(np.abs(whole.astype(int)).max()))
            others = tuple(k for k in range(whole.ndim) if k != weight_axis(node))
            weights[node.output[0]] = whole.astype(np.float32) * np.expand_dims(step, others)
    return Rounding(codes, reads, weights, values, largest)
