"""Rewrite signed Q/DQ activations as unsigned ones: the same integers, 128 higher.

real = scale * (quantized - zero_point) does not change if both move by 128, and neither does the
value at which it is cut off. Kernels differ: those of x86 CPUs multiply unsigned activations by
signed weights, and OpenVINO computes signed activations behind a Concat wrongly.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from edgegen.core.weights import stored

from . import sound

SHIFT = 128


def unsigned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a new model that computes the same.

    A tensor that anything but a DequantizeLinear reads stays signed, and so do weights.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    constants = {t.name: t for t in graph.initializer}
    moved = _movable(graph, constants)
    zeros: dict[str, str] = {}
    for node in graph.node:
        writes = node.op_type == "QuantizeLinear" and node.output[0] in moved
        reads = node.op_type == "DequantizeLinear" and node.input[0] in moved
        if writes or reads:
            zeros.setdefault(node.input[2], f"{node.input[2]}.unsigned")
            node.input[2] = zeros[node.input[2]]
    for name, new in zeros.items():
        higher = stored(constants[name]).astype(np.int16) + SHIFT
        graph.initializer.append(numpy_helper.from_array(higher.astype(np.uint8), new))
    used = {tensor for node in graph.node for tensor in node.input}
    kept = [t for t in graph.initializer if t.name in used or t.name not in zeros]
    known = [v for v in graph.value_info if v.name not in moved]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.value_info.extend(known)
    sound.check(out)
    return out


def _movable(graph: onnx.GraphProto, constants: dict[str, TensorProto]) -> set[str]:
    """Return the quantized int8 activations that are only dequantized again, with the same zero
    point.
    """
    ends = {value.name for value in graph.output}
    zero_of = {
        node.output[0]: node.input[2]
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and len(node.input) > 2
        and node.input[0] not in constants
        and node.output[0] not in ends
        and node.input[2] in constants
        and constants[node.input[2]].data_type == TensorProto.INT8
    }
    for node in graph.node:
        for place, tensor in enumerate(node.input):
            same = (
                node.op_type == "DequantizeLinear"
                and place == 0
                and len(node.input) > 2
                and node.input[2] == zero_of.get(tensor)
            )
            if not same:
                zero_of.pop(tensor, None)
    return set(zero_of)
