"""Rewrite transposed convolutions as convolutions of phases: runtimes for CPUs have INT8 kernels
for the latter and not for the former.

With a stride of s, the pixels that a transposed convolution writes fall into s * s phases, by where
they lie between the pixels that it reads. Each phase is an ordinary convolution with every s-th
weight of the kernel; one convolution that writes all of them as channels, DepthToSpace, which moves
them to their places, and a Slice for what padding cuts off give the same sums with about the same
work (Shi et al. 2016, arXiv 1609.07009, read backwards).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from edgegen.core.spec import Array
from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart

AXES = 2  # axes of an image, along which DepthToSpace moves
PLAIN = {b"NOTSET", b"VALID"}  # values of auto_pad with which the pads apply, or none
END = np.iinfo(np.int64).max  # end of a Slice that cuts nothing off
Nodes = Iterator[NodeProto]


@dataclass(frozen=True)
class Move:
    """Move phases from channels to pixels in their places; `cut` are the rows and columns at the
    beginning and at the end that padding removes.
    """

    stride: int
    cut: tuple[tuple[int, int], tuple[int, int]]

    def nodes(self, source: str, target: str, held: Callable[[str, Array], None]) -> Nodes:
        """Yield the nodes that make `target` from `source`, of any type; `held` keeps a constant by
        its name.
        """
        spread = f"{target}.spread" if any(map(any, self.cut)) else target
        if self.stride > 1:
            yield helper.make_node(
                "DepthToSpace",
                [source],
                [spread],
                f"{spread}.Spread",
                blocksize=self.stride,
                mode="CRD",
            )
        if spread == target:
            return
        first, last = self.cut
        bounds = {
            "from": list(first),
            "to": [-count if count else END for count in last],
            "axes": [2, 3],
        }
        for what, values in bounds.items():
            held(f"{target}.{what}", np.array(values, np.int64))
        cut = spread if self.stride > 1 else source
        names = [f"{target}.{what}" for what in bounds]
        yield helper.make_node("Slice", [cut, *names], [target], f"{target}.Cut")


def has_phases(node: NodeProto, constants: GraphConstants) -> bool:
    """Return whether the node is a transposed convolution of images that can be rewritten: constant
    weights and bias, one stride for both axes, no dilation, and explicit pads.
    """
    if node.op_type != "ConvTranspose" or not {*node.input[1:]} - {""} <= {*constants}:
        return False
    if len(constants.shape(node.input[1])) != 2 + AXES:
        return False
    said = _attributes(node)
    return (
        said.get("auto_pad", b"NOTSET") in PLAIN
        and "output_shape" not in said
        and set(said.get("dilations", [1])) == {1}
        and len(set(said.get("strides", [1]))) == 1
        and min(said.get("pads", [0])) >= 0
    )


def with_phases(
    model: onnx.ModelProto, outputs: Collection[str]
) -> tuple[onnx.ModelProto, Mapping[str, Move]]:
    """Replace the transposed convolutions that write these tensors by convolutions, under the same
    names of nodes and tensors.

    Returns the model, and the moves that still have to be written, by the tensor that holds phases
    until then. A ReLU that alone reads such a tensor comes before the move, where it is part of a
    kernel.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    constants = GraphConstants(model.graph)
    apart = any(map(is_apart, graph.initializer))
    written: set[str] = set()

    def held(name: str, values: Array) -> None:
        if name not in written:  # two layers may read the same weight
            written.add(name)
            graph.initializer.append(constant(values, name, apart))

    ends = {value.name for value in graph.output}
    moves = {}
    for node in graph.node:
        if node.output[0] in outputs and has_phases(node, constants):
            move = _rewrite(node, constants, held)
            if move.stride > 1 or any(map(any, move.cut)):
                readers = [n for n in graph.node if node.output[0] in n.input]
                relu = len(readers) == 1 and readers[0].op_type == "Relu"
                late = relu and node.output[0] not in ends
                moves[readers[0].output[0] if late else node.output[0]] = move
    return out, moves


def _rewrite(
    node: NodeProto, constants: GraphConstants, held: Callable[[str, Array], None]
) -> Move:
    """Turn the node into a convolution in place, and return the move that its output needs."""
    said = _attributes(node)
    weight, group = constants[node.input[1]], said.get("group", 1)
    stride = said.get("strides", [1])[0]
    kernel = weight.shape[2:]
    valid = said.get("auto_pad") == b"VALID"
    pads = [0] * 2 * AXES if valid else said.get("pads", [0] * 2 * AXES)
    longer = said.get("output_padding", [0] * AXES)
    taps = [-(-size // stride) for size in kernel]
    first, last, pad_before, pad_behind = [], [], [], []
    for axis in range(AXES):
        # do not compute whole blocks that are cut off
        spared = min(pads[axis] // stride, taps[axis] - 1)
        pad_before.append(taps[axis] - 1 - spared)
        first.append(pads[axis] - spared * stride)
        end = kernel[axis] - pads[AXES + axis] + longer[axis]
        pad_behind.append(max(-(-end // stride) - 1, 0))
        last.append((pad_behind[-1] + 1) * stride - end)
    name = f"{node.input[1]}.phases{stride}x{group}"
    held(name, phases(weight, stride, group))
    inputs = [node.input[0], name]
    if len(node.input) > 2 and node.input[2]:
        inputs.append(f"{node.input[2]}.phases{stride}")
        held(inputs[-1], np.repeat(constants[node.input[2]], stride**AXES))
    node.CopyFrom(
        helper.make_node(
            "Conv",
            inputs,
            list(node.output),
            node.name,
            kernel_shape=taps,
            pads=[*pad_before, *pad_behind],
            group=group,
        )
    )
    return Move(stride, ((first[0], first[1]), (last[0], last[1])))


def phases(weight: Array, stride: int, group: int) -> Array:
    """Rearrange the weights of a transposed convolution (in, out / group, h, w) into those of the
    convolution that writes its phases, (out * stride * stride, in / group, taps, taps).

    Output channels follow one another, each with its phases row by row, as DepthToSpace expects in
    its mode CRD.
    """
    inputs, outputs, *kernel = weight.shape
    taps = [-(-size // stride) for size in kernel]
    whole = np.zeros((inputs, outputs, *(count * stride for count in taps)), weight.dtype)
    whole[:, :, : kernel[0], : kernel[1]] = weight
    split = whole.reshape(group, inputs // group, outputs, taps[0], stride, taps[1], stride)
    # the order of taps reverses: a convolution reads from the first pixel what a transposed one
    # writes to the last
    turned = split[:, :, :, ::-1, :, ::-1, :].transpose(0, 2, 4, 6, 1, 3, 5)
    return np.ascontiguousarray(turned.reshape(group * outputs * stride**2, inputs // group, *taps))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
