"""Channel equalization: move scale between a tensor's channels and the weights around it, exactly, before quantization.

One scale serves a whole tensor, so its largest channel decides the step of all. ReLU, sums, concatenation and nearest resizing
commute with a positive factor a channel: what writes a channel is divided by s, what reads it multiplied, and the graph computes
the same (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721; the balance of SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgegen.core.spec import Array

from .observe import session

SAME = frozenset({"Relu", "Add", "Resize", "Unsqueeze"})  # a factor a channel passes through unchanged
BALANCE = 0.5  # share of the spread that moves into the weights: measured best of 0.3, 0.5, 0.75 and 1


@dataclass
class _Space:
    """Channels that must share their factors: who writes them, who reads them, and the tensors that are read."""

    channels: int = 0
    free: bool = True
    tensors: list[str] = field(default_factory=list)
    writers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[tuple[onnx.NodeProto, int]] = field(default_factory=list)  # and the first input channel they read them at


def equalized(model: onnx.ModelProto, largest: Mapping[str, np.ndarray], like: onnx.ModelProto | None = None) -> onnx.ModelProto:
    """A model that computes the same with evener channels. largest: tensor -> largest magnitude of each channel (c,).

    like: the same graph with the weights that say how much each channel is read, where these are not the model's own.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    weights = _constants(model)
    guide = weights if like is None else _constants(like)
    for space in _spaces(model, weights):
        seen = np.max([largest[t] for t in space.tensors if t in largest], axis=0)
        read = np.max([_columns(guide[n.input[1]], first, space.channels) for n, first in space.readers], axis=0)
        factor = _factors(seen, read)
        for values in (weights,) if guide is weights else (weights, guide):
            _scale(values, space, factor)
    for tensor in out.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return out


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}


def _scale(weights: dict[str, np.ndarray], space: _Space, factor: np.ndarray) -> None:
    """Divide what writes the space's channels, multiply what reads them."""
    for node in space.writers:
        for name in node.input[1:]:
            weights[name] /= factor.reshape(-1, *[1] * (weights[name].ndim - 1))
    for node, first in space.readers:
        weight = weights[node.input[1]]
        weight[:, first : first + space.channels] *= factor.reshape(1, -1, *[1] * (weight.ndim - 2))


def _columns(weight: np.ndarray, first: int, count: int) -> np.ndarray:
    """Largest magnitude of each input channel (count,)."""
    part: np.ndarray = np.abs(weight[:, first : first + count]).max(axis=(0, *range(2, weight.ndim)))
    return part


def _factors(seen: np.ndarray, read: np.ndarray) -> np.ndarray:
    """s of each channel; 1 for a channel that is silent or unread; the geometric mean is 1."""
    alive = (seen > 0) & (read > 0)
    factor = np.ones_like(seen)
    if alive.any():
        raw = seen[alive] ** BALANCE / read[alive] ** (1 - BALANCE)
        factor[alive] = raw / np.exp(np.log(raw).mean())
    return factor.astype(np.float32)


def _spaces(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> Iterator[_Space]:
    """Every space whose factors are free: written by layers with constant weights and read by convolutions alone."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    parent: dict[str, str] = {}

    def find(t: str) -> str:
        while parent.setdefault(t, t) != t:
            t = parent[t]
        return t

    for node in model.graph.node:
        if node.op_type in SAME:
            for tensor in node.input:
                if tensor and tensor not in weights:
                    parent[find(tensor)] = find(node.output[0])
    spaces: dict[str, _Space] = defaultdict(_Space)
    parts: dict[str, list[str]] = {}  # a concatenation's inputs, for what reads it
    for value in [*model.graph.input, *model.graph.output]:
        spaces[find(value.name)].free = False
    for node in model.graph.node:
        _place(node, weights, uses, find, spaces, parts)
    for name in sorted(spaces):
        space = spaces[name]
        if space.free and space.writers and space.readers:
            yield space


def _place(node: onnx.NodeProto, weights: Mapping[str, np.ndarray], uses: Mapping[str, int], find: Callable[[str], str],
           spaces: dict[str, _Space], parts: dict[str, list[str]]) -> None:
    """Enter one node as writer and reader of spaces, or pin the spaces it touches."""
    inputs = [t for t in node.input if t and t not in weights]
    own = all(uses[name] == 1 for name in node.input[1:] if name in weights)
    if node.op_type == "Conv" and node.input[1] in weights and own and _attribute(node, "group", 1) == 1:
        first = 0
        for tensor in parts.get(inputs[0], inputs[:1]):
            space = spaces[find(tensor)]
            space.readers.append((node, first))
            space.tensors.append(tensor)
            first += space.channels
        _writes(node, spaces[find(node.output[0])], weights)
        if first not in (0, weights[node.input[1]].shape[1]):
            raise ValueError(f"{node.name} reads {weights[node.input[1]].shape[1]} channels of a tensor that has {first}")
        return
    if node.op_type == "Gemm" and node.input[1] in weights and own and _attribute(node, "transB", 0) == 1:
        _writes(node, spaces[find(node.output[0])], weights)
    elif node.op_type == "Concat" and _attribute(node, "axis", 0) == 1 and not any(t in parts for t in inputs):
        parts[node.output[0]] = inputs
        return
    elif node.op_type in SAME and (node.op_type != "Add" or len(inputs) == 2) and not any(t in parts for t in inputs):
        return
    else:
        spaces[find(node.output[0])].free = False
    for tensor in inputs:
        for part in parts.get(tensor, [tensor]):
            spaces[find(part)].free = False


def _writes(node: onnx.NodeProto, space: _Space, weights: Mapping[str, np.ndarray]) -> None:
    space.writers.append(node)
    space.channels = len(weights[node.input[1]])


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def read_tensors(model: onnx.ModelProto) -> list[str]:
    """Tensors whose channels' magnitudes `equalized` wants to know, in a fixed order."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return sorted({t for space in _spaces(model, weights) for t in space.tensors})


class ChannelObserver:
    """Executes a graph for the sampler and keeps the largest magnitude of each channel of the tensors that convolutions read."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        self.tensors = read_tensors(model)
        self._session = session(_instrument(model, self.tensors), threads)
        self.largest: dict[str, np.ndarray] = {}

    def __call__(self, **inputs: Array) -> Array:
        out, *found = self._session.run(None, inputs)
        for tensor, value in zip(self.tensors, found, strict=True):
            self.largest[tensor] = np.maximum(self.largest.get(tensor, 0), value)
        result: Array = out
        return result


def _instrument(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.graph.initializer.append(helper.make_tensor("channels.axes", TensorProto.INT64, [3], [0, 2, 3]))
    for k, tensor in enumerate(tensors):
        out.graph.node.append(helper.make_node("Abs", [tensor], [f"channels.{k}.abs"]))
        reads = [f"channels.{k}.abs", "channels.axes"]
        out.graph.node.append(helper.make_node("ReduceMax", reads, [f"channels.{k}"], keepdims=0))
        out.graph.output.append(helper.make_tensor_value_info(f"channels.{k}", TensorProto.FLOAT, [None]))
    return out
