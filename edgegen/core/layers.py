"""The layers that a plan may make INT8, which multiply by a constant weight, and the axis of the
output channels in their weights. (no onnx)
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
    """Return whether a plan may make `node` INT8.

    Its weight must be a constant, and for Gemm and MatMul a single matrix. A Gemm must not
    transpose its input or scale by alpha or beta.
    """
    if node.op_type in CONVOLUTIONS:
        return node.input[1] in constants
    if node.op_type not in LINEAR or node.input[1] not in constants:
        return False
    return len(constants.shape(node.input[1])) == 2 and _is_plain(node)


def _is_plain(node: NodeProto) -> bool:
    """Return whether a Gemm or MatMul neither transposes its input nor scales by a factor."""
    factors = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return not turned and all(value == 1 for value in factors.values())


def weight_axis(node: NodeProto) -> int:
    """Return the axis of the output channels in the weight of a layer."""
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if turned else 1, "MatMul": 1}[node.op_type]
