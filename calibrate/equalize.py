"""Equalize channels before quantization: move scale between a tensor's channels and the weights
around it, exactly.

One scale serves a whole tensor, so its largest channel decides the step of all. ReLU, sums,
concatenation and nearest resizing commute with a positive factor for each channel: what writes a
channel is divided by s, what reads it is multiplied, and the graph computes the same (cross-layer
equalization, Nagel et al. 2019, arXiv 1906.04721; the balance of SmoothQuant, arXiv 2211.10438).
Features times a style take the style's factor, and what demodulates by the styles' squares takes
its square. Without a ReLU between, a factor may be negative: channels that lean to one side then
all lean to the same, and one range covers less.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.spec import Array
from edgegen.core.weight_file import replaced
from edgegen.core.weights import GraphConstants

from .observe import session

# a positive factor for each channel passes through these unchanged
SAME = frozenset({"Relu", "LeakyRelu", "Add", "Resize", "Unsqueeze"})
SIDES = np.array([[1], [-1]], np.float32)  # x and -x are both observed
# share of the spread that moves into the weights: the best of 0.3, 0.5, 0.75 and 1 in a measurement
BALANCE = 0.5


@dataclass
class _Space:
    """Hold channels that must share their factors: what writes them, what reads them, and the
    tensors that are read.
    """

    channels: int = 0
    free: bool = True
    positive: bool = False  # whether a ReLU is among them, through which no negative factor passes
    tensors: list[str] = field(default_factory=list)
    writers: list[onnx.NodeProto] = field(default_factory=list)
    # a reader, and the first input channel at which it reads them
    readers: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)
    # products with a constant matrix that read the squares of these channels
    squares: list[onnx.NodeProto] = field(default_factory=list)


def equalized(
    model: onnx.ModelProto, largest: Mapping[str, np.ndarray], like: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """Return a model that computes the same with evener channels.

    `largest` maps a tensor to the maxima of x and of -x in each channel, (2, c). `like` is the same
    graph with the weights that decide how much each channel is read, if they are not the model's
    own.
    """
    constants = GraphConstants(model.graph)
    weights = _Weights({}, constants)
    guide = weights if like is None else _Weights({}, GraphConstants(like.graph))
    for space in _spaces(model, constants):
        seen = np.max([largest[t] for t in space.tensors if t in largest], axis=0)
        read = np.max(
            [_columns(guide[n.input[1]], first, space.channels) for n, first in space.readers],
            axis=0,
        )
        factor = _factors(seen.max(0), read)
        if not space.positive:
            factor = np.where(seen[1] > seen[0], -factor, factor)
        for values in (weights,) if guide is weights else (weights, guide):
            _scale(values, space, factor)
    return replaced(model, weights.changed)


@dataclass
class _Weights:
    """Look up constants, of which changed ones are kept here."""

    changed: dict[str, np.ndarray]
    constants: GraphConstants

    def __getitem__(self, name: str) -> np.ndarray:
        return self.changed[name] if name in self.changed else self.constants[name]

    def own(self, name: str) -> np.ndarray:
        """Return a constant as an array that may be written into."""
        if name not in self.changed:
            self.changed[name] = np.array(self.constants[name])
        return self.changed[name]


def _scale(weights: _Weights, space: _Space, factor: np.ndarray) -> None:
    """Divide what writes the space's channels, and multiply what reads them."""
    for node in space.writers:
        for name in node.input[1:]:
            values = weights.own(name)
            values /= factor.reshape(-1, *[1] * (values.ndim - 1))
    for node, first in space.readers:
        weight = weights.own(node.input[1])
        weight[:, first : first + space.channels] *= factor.reshape(1, -1, *[1] * (weight.ndim - 2))
    for node in space.squares:
        matrix = weights.own(node.input[1])
        matrix *= np.square(factor)[:, None]


def _columns(weight: np.ndarray, first: int, count: int) -> np.ndarray:
    """Return the largest magnitude of each input channel, (count,)."""
    part: np.ndarray = np.abs(weight[:, first : first + count]).max(
        axis=(0, *range(2, weight.ndim))
    )
    return part


def _factors(seen: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return the factor of each channel, with a geometric mean of 1; it is 1 for a channel that is
    silent or unread.
    """
    alive = (seen > 0) & (read > 0)
    factor = np.ones_like(seen)
    if alive.any():
        raw = seen[alive] ** BALANCE / read[alive] ** (1 - BALANCE)
        factor[alive] = raw / np.exp(np.log(raw).mean())
    return factor.astype(np.float32)


def _spaces(model: onnx.ModelProto, weights: GraphConstants) -> Iterator[_Space]:
    """Yield every space whose factors are free: written by constant layers, read by convolutions
    and demodulation alone.
    """
    spaces = _Walk(model, weights).spaces
    for name in sorted(spaces):
        space = spaces[name]
        if space.free and space.writers and space.readers:
            yield space


class _Walk:
    """Walk over a graph once, joining tensors of equal factors into spaces and entering what writes
    and reads them.
    """

    def __init__(self, model: onnx.ModelProto, weights: GraphConstants) -> None:
        nodes, ends = model.graph.node, [v.name for v in [*model.graph.input, *model.graph.output]]
        self.weights = weights
        self.uses = Counter(name for node in nodes for name in node.input)
        self.maker = {node.output[0]: node for node in nodes}
        self.parent: dict[str, str] = {}
        self.spaces: dict[str, _Space] = defaultdict(_Space)
        # inputs of a concatenation, for the node that reads it
        self.parts: dict[str, list[str]] = {}
        others = {t for node in nodes if not self._multiplies(node) for t in node.input}
        squares = [
            node for node in nodes if node.op_type == "Mul" and node.input[0] == node.input[1]
        ]
        self.squared = {
            n.output[0]: n.input[0] for n in squares if n.output[0] not in {*others, *ends}
        }
        for node in nodes:
            for tensor in self._alike(node):
                self.parent[self.find(tensor)] = self.find(node.output[0])
        for name in ends:
            self.space(name).free = False
        for node in nodes:
            self._enter(node)

    def find(self, tensor: str) -> str:
        while self.parent.setdefault(tensor, tensor) != tensor:
            tensor = self.parent[tensor]
        return tensor

    def space(self, tensor: str) -> _Space:
        return self.spaces[self.find(tensor)]

    def _inputs(self, node: onnx.NodeProto) -> list[str]:
        """Return the node's inputs that are computed."""
        return [t for t in node.input if t and t not in self.weights]

    def _alike(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs whose factors are the output's: all of an operator in SAME; of features
        times a style, the style.
        """
        inputs = self._inputs(node)
        if node.op_type in SAME and (node.op_type != "Add" or len(inputs) == 2):
            return inputs
        styles = [t for t in inputs if t in self.maker and self.maker[t].op_type == "Unsqueeze"]
        return styles if node.op_type == "Mul" and len(inputs) == 2 and len(styles) == 1 else []

    def _enter(self, node: onnx.NodeProto) -> None:
        """Enter one node as writer and reader of spaces, or pin the spaces that it touches."""
        inputs, out = self._inputs(node), self.space(node.output[0])
        if (
            node.op_type == "Concat"
            and _attribute(node, "axis", 0) == 1
            and not any(t in self.parts for t in inputs)
        ):
            self.parts[node.output[0]] = inputs
        elif self._own(node, "Conv") and _attribute(node, "group", 1) == 1:
            self._reads(node, inputs[0])
            self._writes(node)
        elif self._own(node, "Gemm") and _attribute(node, "transB", 0) == 1:
            self._writes(node)
            self._pin(inputs)
        elif self._multiplies(node) and inputs[0] in self.squared:
            self.space(self.squared[inputs[0]]).squares.append(node)
            out.free = False
        elif node.output[0] not in self.squared:
            same = self._alike(node)
            out.free &= bool(same)
            out.positive |= node.op_type in ("Relu", "LeakyRelu")
            self._pin([t for t in inputs if t not in same or t in self.parts])

    def _own(self, node: onnx.NodeProto, kind: str) -> bool:
        """Return whether the node is of that kind and has constants of its own, which may be
        changed.
        """
        constants = [name for name in node.input[1:] if name in self.weights]
        return (
            node.op_type == kind
            and node.input[1] in constants
            and all(self.uses[name] == 1 for name in constants)
        )

    def _multiplies(self, node: onnx.NodeProto) -> bool:
        """Return whether the node is a product of rows with a constant matrix of its own."""
        return self._own(node, "MatMul") and len(self.weights.shape(node.input[1])) == 2

    def _pin(self, tensors: list[str]) -> None:
        for tensor in tensors:
            for part in self.parts.get(tensor, [tensor]):
                self.space(part).free = False

    def _reads(self, node: onnx.NodeProto, joined: str) -> None:
        """Enter a convolution as reader of each part that it reads, or pin the parts if it cannot
        be said which channels are whose.
        """
        columns = self.weights.shape(node.input[1])[1]
        tensors = self.parts.get(joined, [joined])
        counts = [self.space(tensor).channels for tensor in tensors]
        # what no constant layer wrote has what the others leave
        if counts.count(0) == 1:
            counts[counts.index(0)] = columns - sum(counts)
        if min(counts) <= 0 or sum(counts) != columns:
            self._pin(tensors)
            return
        first = 0
        for tensor, count in zip(tensors, counts, strict=True):
            space = self.space(tensor)
            space.readers.append((node, first))
            space.tensors.append(tensor)
            first += count

    def _writes(self, node: onnx.NodeProto) -> None:
        space = self.space(node.output[0])
        space.writers.append(node)
        space.channels = self.weights.shape(node.input[1])[0]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def read_tensors(model: onnx.ModelProto) -> list[str]:
    """Return the tensors whose channel maxima `equalized` needs, in a fixed order."""
    spaces = _spaces(model, GraphConstants(model.graph))
    return sorted({tensor for space in spaces for tensor in space.tensors})


class ChannelObserver:
    """Execute a graph for the sampler and keep the largest x and -x of each channel of the tensors
    that convolutions read.
    """

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self.tensors = read_tensors(model)
        self._session = session(_instrument(model, self.tensors), threads)
        self.largest: dict[str, np.ndarray] = {}

    def __call__(self, **inputs: Array) -> Array:
        out, *values = self._session.run(None, inputs)
        for tensor, value in zip(self.tensors, values, strict=True):
            self.largest[tensor] = np.maximum(self.largest.get(tensor, 0), value * SIDES)
        result: Array = out
        return result


def _instrument(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.append(
        helper.make_tensor("channels.axes", TensorProto.INT64, [3], [0, 2, 3])
    )
    out.graph.initializer.append(
        helper.make_tensor("channels.pair", TensorProto.INT64, [2], [2, -1])
    )
    for k, tensor in enumerate(tensors):
        for op in ("ReduceMax", "ReduceMin"):
            out.graph.node.append(
                helper.make_node(op, [tensor, "channels.axes"], [f"channels.{k}.{op}"], keepdims=0)
            )
        sides = [f"channels.{k}.ReduceMax", f"channels.{k}.ReduceMin"]
        out.graph.node.append(helper.make_node("Concat", sides, [f"channels.{k}.both"], axis=0))
        out.graph.node.append(
            helper.make_node("Reshape", [f"channels.{k}.both", "channels.pair"], [f"channels.{k}"])
        )
        out.graph.output.append(
            helper.make_tensor_value_info(f"channels.{k}", TensorProto.FLOAT, [2, None])
        )
    return out
