"""Layers that multiply by a constant weight: the operators that a plan may make INT8, and where
their weights have their output channels. (no onnx)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto

    from .weights import GraphConstants

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
LINEAR = frozenset({"Gemm", "MatMul"})  # products of rows with a matrix
LAYERS = CONVOLUTIONS | LINEAR


def is_layer(node: NodeProto, constants: GraphConstants) -> bool:
    """Whether a plan could make it INT8. A weight that is computed is no constant to quantize, and
    neither is one of a stack of matrices; a Gemm has to multiply rows as they are.
    """
    if node.op_type in CONVOLUTIONS:
        return node.input[1] in constants
    if node.op_type not in LINEAR or node.input[1] not in constants:
        return False
    return len(constants.shape(node.input[1])) == 2 and _is_plain(node)


def _is_plain(node: NodeProto) -> bool:
    """Of a product: neither turned nor scaled."""
    factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return not turned and all(value == 1 for value in factors.values())


def weight_axis(node: NodeProto) -> int:
    """Of the output channels in the weight of a layer."""
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if turned else 1, "MatMul": 1}[node.op_type]
