"""Replace float32 matrix products for Turing GPUs (SM 7.5), for which TensorRT-RTX has none, by the
same sums from operators that it has.

A product with a constant matrix becomes a convolution of an image of one pixel. One of two computed
tensors, or of more than two axes, becomes a product of every pair of numbers, and its sum. Products
in float16 stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgegen.core.weights import GraphConstants

from . import sound


def without_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a new model without MatMul or Gemm in float32 whose ranks are known; the builder will
    name the others.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        v.name: v.type.tensor_type
        for v in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    constants = GraphConstants(model.graph)

    def rank(name: str) -> int:
        """Return the rank of a tensor, 0 if it is unknown; a matrix product has no scalars."""
        if name in constants:
            return len(constants.shape(name))
        return (
            len(shapes[name].shape.dim) if name in shapes and shapes[name].HasField("shape") else 0
        )

    def full(node: NodeProto) -> bool:
        kinds = [shapes[n].elem_type if n in shapes else None for n in node.output]
        return node.op_type in ("MatMul", "Gemm") and kinds == [TensorProto.FLOAT]

    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:]
    for node in model.graph.node:
        replacement: list[NodeProto | TensorProto] = []
        if (
            full(node)
            and rank(node.input[0]) == 2
            and node.input[1] in constants
            and rank(node.input[1]) == 2
        ):
            replacement = list(_pixel(node, constants[node.input[1]]))
        elif (
            full(node)
            and node.op_type == "MatMul"
            and min(rank(node.input[0]), rank(node.input[1])) >= 2
        ):
            replacement = list(_pairs(node))
        for part in replacement or [node]:
            (out.graph.node if isinstance(part, NodeProto) else out.graph.initializer).append(part)
    sound.check(out)
    return out


def _pixel(node: NodeProto, matrix: np.ndarray) -> Iterator[NodeProto | TensorProto]:
    """Yield nodes for x (n, k) times a constant matrix, with Gemm's own settings."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    name = node.output[0]
    x = node.input[0]
    if attributes.get("transA"):
        yield helper.make_node(
            "Transpose", [x], [f"{name}.turned"], f"{node.name}.Turn", perm=[1, 0]
        )
        x = f"{name}.turned"
    kernel = (matrix if attributes.get("transB") else matrix.T) * np.float32(
        attributes.get("alpha", 1.0)
    )
    yield numpy_helper.from_array(np.ascontiguousarray(kernel[:, :, None, None]), f"{name}.kernel")
    yield numpy_helper.from_array(np.array([2, 3]), f"{name}.pixel")
    biased = len(node.input) > 2 and bool(node.input[2])
    product = f"{name}.product" if biased else name
    yield helper.make_node(
        "Unsqueeze", [x, f"{name}.pixel"], [f"{name}.wide"], f"{node.name}.Widen"
    )
    yield helper.make_node("Conv", [f"{name}.wide", f"{name}.kernel"], [f"{name}.sums"], node.name)
    yield helper.make_node(
        "Squeeze", [f"{name}.sums", f"{name}.pixel"], [product], f"{node.name}.Narrow"
    )
    if biased:
        bias = node.input[2]
        if attributes.get("beta", 1.0) != 1.0:
            yield numpy_helper.from_array(
                np.asarray(attributes["beta"], np.float32), f"{name}.beta"
            )
            yield helper.make_node(
                "Mul", [bias, f"{name}.beta"], [f"{name}.bias"], f"{node.name}.Beta"
            )
            bias = f"{name}.bias"
        yield helper.make_node("Add", [product, bias], [name], f"{node.name}.Bias")


def _pairs(node: NodeProto) -> Iterator[NodeProto | TensorProto]:
    """Yield nodes for (..., m, k) by (..., k, n): every a * b, then their sum over k."""
    name, (a, b) = node.output[0], node.input
    for key, axis in (("last", -1), ("third", -3), ("summed", -2)):
        yield numpy_helper.from_array(np.array([axis]), f"{name}.{key}")
    yield helper.make_node("Unsqueeze", [a, f"{name}.last"], [f"{name}.a"], f"{node.name}.A")
    yield helper.make_node("Unsqueeze", [b, f"{name}.third"], [f"{name}.b"], f"{node.name}.B")
    yield helper.make_node(
        "Mul", [f"{name}.a", f"{name}.b"], [f"{name}.pairs"], f"{node.name}.Pairs"
    )
    yield helper.make_node(
        "ReduceSum", [f"{name}.pairs", f"{name}.summed"], [name], node.name, keepdims=0
    )
