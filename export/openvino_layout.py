"""Compute what joins every pixel of an image as an image of one pixel, so that OpenVINO keeps
images in one memory layout.

A style or a time embedding is a vector (n, c) that becomes (n, c, 1, 1) and is multiplied with or
added to features (n, c, h, w). OpenVINO's CPU plug-in keeps vectors in plain order and
convolutions' features with channels last; an operator that reads both may take the vector's order,
and the features are then reordered before it and back after it. Matrix products on a vector are
convolutions on a pixel, whose order is the features' own: the sums are the same, and nothing is
reordered (decision 13 has the times).
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Model, Node, Output

JOINS = frozenset({"Add", "Multiply"})
POINTWISE = frozenset({"Add", "Multiply", "Divide", "Power"})


def vectors_as_pixels(model: Model, ov: ModuleType) -> int:
    """Rewrite an openvino.Model in place, exactly, and return how many vectors became pixels.

    `ov` is the openvino package.
    """
    pixels: dict[tuple[str, int], Output] = {}
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Unsqueeze", "Reshape") and _is_pixel(node) and _joins(node):
            pixel = _Pixels(ov.opset13, pixels).of(node.input_value(0))
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(pixel)
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _is_pixel(node: Node) -> bool:
    """Return whether the node turns (n, c) into (n, c, 1, 1) in float32."""
    before, after = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    if not (
        before.rank.is_static
        and after.rank.is_static
        and before.rank.get_length() == 2
        and after.rank.get_length() == 4
    ):
        return False
    same_channels = before[1].is_static and before[1] == after[1]
    return (
        same_channels
        and after[2] == after[3] == 1
        and node.get_element_type().get_type_name() == "f32"
    )


def _joins(node: Node) -> bool:
    return any(
        target.get_node().get_type_name() in JOINS for target in node.output(0).get_target_inputs()
    )


class _Pixels:
    """Rebuild operators on (n, c) as operators on (n, c, 1, 1), each once, back to whatever is no
    product or pointwise operator.
    """

    def __init__(self, ops: ModuleType, made: dict[tuple[str, int], Output]) -> None:
        self.ops, self.made = ops, made

    def of(self, vector: Output) -> Output:
        # unlike friendly names, these are unique
        key = (vector.get_node().get_name(), vector.get_index())
        if key not in self.made:
            self.made[key] = self._rebuilt(vector).output(0)
        return self.made[key]

    def _rebuilt(self, vector: Output) -> Node:
        node = vector.get_node()
        kind, inputs = node.get_type_name(), node.input_values()
        if (
            kind == "MatMul"
            and _fixed(inputs[1])
            and _rank(inputs[1]) == 2
            and not node.get_attributes()["transpose_a"]
        ):
            weight = inputs[1]
            if not node.get_attributes()["transpose_b"]:
                weight = self.ops.transpose(weight, _whole([1, 0]))
            kernel = self.ops.unsqueeze(weight, _whole([2, 3]))
            return self.ops.convolution(self.of(inputs[0]), kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        if kind == "Sqrt":
            return self.ops.sqrt(self.of(inputs[0]))
        if kind in POINTWISE and all(
            _row(value) if _fixed(value) else _rank(value) == 2 for value in inputs
        ):
            operands = [self._constant(v) if _fixed(v) else self.of(v) for v in inputs]
            return getattr(self.ops, kind.lower())(*operands)
        return self.ops.unsqueeze(vector, _whole([2, 3]))

    def _constant(self, value: Output) -> Node:
        """Reshape a row or a number so that it can be joined with a pixel."""
        return self.ops.reshape(value, _whole([1, -1, 1, 1]), False)


def _whole(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _rank(value: Output) -> int:
    rank = value.get_partial_shape().rank
    return int(rank.get_length()) if rank.is_static else -1


def _row(value: Output) -> bool:
    """Return whether the value is one number, or one for each channel: a number for each image
    would need another shape.
    """
    shape = value.get_partial_shape()
    return shape.is_static and all(size == 1 for size in list(shape)[:-1])


def _fixed(value: Output) -> bool:
    """Return whether constants alone determine the value."""
    node = value.get_node()
    inputs = node.input_values()
    return node.get_type_name() == "Constant" or (bool(inputs) and all(map(_fixed, inputs)))
