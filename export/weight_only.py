"""Weights of 8 bits in a graph that computes in float32: what a text encoder ships with.

A text encoder runs once a prompt, so that its speed counts for little and its bytes for much. Each
matrix of a MatMul or Gemm, and each table of a Gather, is stored as int8 with one scale an output
channel (or a row of the table) and a DequantizeLinear in front of what reads it; activations are
not rounded, so that nothing has to be calibrated (decision 20).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart

WORTH_CODING = 4096  # numbers of a weight, below which its scales and node weigh as much
LARGEST = 127  # int8 without -128, so that codes are symmetric
CODES, SCALE = "codes", "scale"  # behind the name of a weight


@dataclass(frozen=True)
class Coded:
    """A weight as codes * scale along an axis. codes: int8 of the weight's shape; scale: float32,
    one for each index of `axis`.
    """

    codes: np.ndarray
    scale: np.ndarray
    axis: int

    @classmethod
    def of(cls, weight: np.ndarray, axis: int) -> Coded:
        """The nearest codes; the largest number of each channel is +-127."""
        others = tuple(k for k in range(weight.ndim) if k != axis)
        values = weight.astype(np.float32, copy=False)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
        codes = np.clip(np.rint(values / scale), -LARGEST, LARGEST).astype(np.int8)
        return cls(codes, scale.reshape(-1), axis)


def with_coded_weights(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy whose large matrices and tables are int8; its inputs and outputs stay. A weight whose
    readers want scales along different axes stays as it is. None where there is none to code.
    """
    constants = GraphConstants(model.graph)
    axes = _axes(model.graph, constants)
    if not axes:
        return None
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    apart = any(map(is_apart, model.graph.initializer))
    made = []
    for name, axis in axes.items():
        coded = Coded.of(np.ascontiguousarray(constants[name]), axis)
        graph.initializer.append(constant(coded.codes, f"{name}.{CODES}", apart))
        graph.initializer.append(constant(coded.scale, f"{name}.{SCALE}", apart))
        inputs = [f"{name}.{CODES}", f"{name}.{SCALE}"]
        made.append(
            helper.make_node("DequantizeLinear", inputs, [name], f"{name}.Restored", axis=axis)
        )
    own = [n for n in model.graph.node if not (constants.is_made(n) and n.output[0] in axes)]
    nodes = [*made, *constants.kept(own, [value.name for value in graph.output])]
    read = {tensor for node in nodes for tensor in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read - set(axes)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return out


def _axes(graph: onnx.GraphProto, constants: GraphConstants) -> dict[str, int]:
    """The axis of the output channels, of each float weight that is worth it."""
    found: dict[str, set[int | None]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in constants and not constants.is_made(node):
                found.setdefault(name, set()).add(_axis(node, position))
    wanted = {}
    for name, axes in found.items():
        shape = constants.shape(name)
        (axis, *others) = axes
        if axis is None or others or len(shape) != 2:
            continue
        if constants.kind(name) == onnx.TensorProto.FLOAT and np.prod(shape) >= WORTH_CODING:
            wanted[name] = axis
    return wanted


def _axis(node: onnx.NodeProto, position: int) -> int | None:
    """Along which a matrix's channels lie, for the node that reads it there; None for a reader to
    whom it is no matrix of weights.
    """
    given = {a.name: a.i for a in node.attribute}
    if node.op_type == "MatMul" and position == 1:
        return 1
    if node.op_type == "Gemm" and position == 1:
        return 0 if given.get("transB", 0) else 1
    if node.op_type == "Gather" and position == 0 and not given.get("axis", 0):
        return 0
    return None
