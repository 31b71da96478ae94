"""Decide which way each weight is rounded: weights that are not rounded yet compensate for what the
rounding of one breaks.

After Frantar et al., GPTQ (2022), for convolutions and matrix products: the second moments of a
layer's input, over the sampler's own trajectory, say how much its output moves with each weight.
Scales stay those of nearest rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.layers import LAYERS, LINEAR, is_layer, weight_axis
from edgegen.core.plan import rounded_name
from edgegen.core.spec import Array
from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart

from .observe import session

# share of the mean second moment that is added to all, because directions that were hardly seen are
# not trusted
DAMPING = 0.01
# positions of each image, or rows, that are read from a layer's input: more if there are few
# images, because too few cannot say how weights compensate for one another
PLACES, SEEN = 8, 1024
# positions that are multiplied at once: adding up a product costs as much as a few of them
GATHERED = 512
# Bytes of second moments for all layers of a graph; beyond them, those between the blocks of a
# layer's inputs are left out.
MOST_BYTES = 2 << 30
SMALLEST_BLOCK = 64


def block_size(widths: Collection[int], most_bytes: int = MOST_BYTES) -> int:
    """Return the largest block size whose second moments take at most `most_bytes`, over layers
    that are sums over `widths` numbers: the widest layer, halved as often as needed, at least
    SMALLEST_BLOCK.
    """
    block = max(widths, default=SMALLEST_BLOCK)
    while block > SMALLEST_BLOCK and _moment_bytes(widths, block) > most_bytes:
        block = max(-(-block // 2), SMALLEST_BLOCK)
    return block


def _moment_bytes(widths: Collection[int], block: int) -> int:
    return sum(4 * (b.stop - b.start) ** 2 for width in widths for b in blocks(width, block))


def blocks(width: int, block: int) -> list[slice]:
    """Divide 0 .. width into equal parts of at most `block`."""
    count = -(-width // block)
    ends = [width * k // count for k in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


class WeightMoments:
    """Execute a graph for the sampler and keep the second moments of each convolution's patches,
    and of the rows of the matrix products in `products`: pass it as the graph's `call`.

    If the moments of all layers would take more than `most_bytes`, only those inside blocks of
    their inputs are kept. `images` is the number of images that it will see.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        threads: int,
        products: Collection[str] = (),
        most_bytes: int = MOST_BYTES,
        images: int = SEEN // PLACES,
    ) -> None:
        self._places = max(PLACES, -(-SEEN // images))
        self._layers, self._shapes = _rounded_layers(model, products)
        self._tensors = list(dict.fromkeys(n.input[0] for n in self._layers))
        self._session = session(_watched(model, self._tensors), threads)
        self._rng = np.random.default_rng(0)
        self._blocks = _input_blocks(self._layers, self._shapes, most_bytes)
        self._second = {
            name: [np.zeros((part.stop - part.start,) * 2, np.float32) for part in parts]
            for name, parts in self._blocks.items()
        }
        self._gathered: dict[str, list[Array]] = {n: [] for n in self._shapes}

    def __call__(self, **inputs: Array) -> Array:
        out, *values = self._session.run(None, inputs)
        seen = dict(zip(self._tensors, values, strict=True)) | inputs
        for node in self._layers:
            gathered = self._gathered[node.name]
            x = seen[node.input[0]]
            gathered.append(
                _rows(x, self._places, self._rng)
                if node.op_type in LINEAR
                else _patches(x, node, self._shapes[node.name][2:], self._places, self._rng)
            )
            if sum(map(len, gathered)) >= GATHERED:
                self._add(node.name)
        result: Array = out
        return result

    @property
    def second(self) -> dict[str, list[Array]]:
        """Return, by layer, the second moments of its patches or rows, (in, in) for each block of
        its inputs.
        """
        for name in self._second:
            self._add(name)
        return self._second

    def _add(self, name: str) -> None:
        if self._gathered[name]:
            patches = np.concatenate(self._gathered[name])
            for part, moments in zip(self._blocks[name], self._second[name], strict=True):
                moments += patches[:, part].T @ patches[:, part]
            self._gathered[name] = []


def rounded_sizes(
    model: onnx.ModelProto, products: Collection[str] = (), most_bytes: int = MOST_BYTES
) -> list[tuple[int, int]]:
    """Return outputs and inputs of each block of weights that is rounded by itself, as
    WeightMoments divides them.
    """
    layers, shapes = _rounded_layers(model, products)
    parts = _input_blocks(layers, shapes, most_bytes)
    return [
        (shapes[n.name][weight_axis(n)], part.stop - part.start)
        for n in layers
        for part in parts[n.name]
    ]


def _rounded_layers(
    model: onnx.ModelProto, products: Collection[str]
) -> tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]]]:
    """Return the convolutions without groups and the matrix products of these names, and the shapes
    of their weights.
    """
    weights = GraphConstants(model.graph)
    layers = [
        n
        for n in model.graph.node
        if is_layer(n, weights)
        and (_group(n) == 1 if n.op_type == "Conv" else n.op_type in LINEAR and n.name in products)
    ]
    return layers, {n.name: weights.shape(n.input[1]) for n in layers}


def _input_blocks(
    layers: Sequence[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]], most_bytes: int
) -> dict[str, list[slice]]:
    widths = {n.name: _width(n, shapes[n.name]) for n in layers}
    block = block_size(widths.values(), most_bytes)
    return {name: blocks(width, block) for name, width in widths.items()}


def _watched(model: onnx.ModelProto, tensors: list[str]) -> onnx.ModelProto:
    """Return the model with `tensors` as further outputs."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    inputs = {v.name for v in model.graph.input}
    for k, tensor in enumerate(tensors):
        name = tensor
        if tensor in inputs:  # an input cannot be an output
            name = f"watched.{k}"
            out.graph.node.append(helper.make_node("Identity", [tensor], [name]))
        out.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return out


def _width(node: onnx.NodeProto, shape: tuple[int, ...]) -> int:
    """Return how many numbers each output channel is a sum over."""
    return math.prod(shape) // shape[weight_axis(node)]


def _rows(x: Array, places: int, rng: np.random.Generator) -> Array:
    """Pick a few random rows of each image: (b, ..., c) -> (rows, c)."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    if rows.shape[1] > places:
        picked = rng.integers(0, rows.shape[1], (len(x), places))
        rows = rows[np.arange(len(x))[:, None], picked]
    return np.ascontiguousarray(rows.reshape(-1, x.shape[-1]), np.float32)


def _group(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)


def _ints(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), default)


def _patches(
    x: Array, node: onnx.NodeProto, kernel: tuple[int, ...], places: int, rng: np.random.Generator
) -> Array:
    """Pick what the convolution multiplies at a few random positions of each image: (b, c, h, w) ->
    (places, c * kh * kw).
    """
    pads, strides = _ints(node, "pads", [0, 0, 0, 0]), _ints(node, "strides", [1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))[
        :, :, :: strides[0], :: strides[1]
    ]
    rows, columns = (rng.integers(0, n, (len(x), places)) for n in windows.shape[2:4])
    taken = windows[np.arange(len(x))[:, None], :, rows, columns]  # (b, places, c, kh, kw)
    return np.ascontiguousarray(taken.reshape(len(x) * places, -1), np.float32)


def rounded(
    model: onnx.ModelProto, moments: WeightMoments, weight_bits: Iterable[int] = (8,)
) -> onnx.ModelProto:
    """Return the model with, beside each layer's weight, one on the grid of each number of bits
    (core.plan.rounded_name).
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    weights = GraphConstants(model.graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.name in moments.second and node.op_type in LAYERS:
            readers.setdefault(node.input[1], []).append(node)
    apart = any(map(is_apart, model.graph.initializer))
    for name, nodes in readers.items():
        axis = weight_axis(nodes[0])
        if any(weight_axis(node) != axis for node in nodes):
            continue  # no rounding suits two layers that read it along different axes
        weight = np.moveaxis(weights[name].astype(np.float64), axis, 0)
        second = [
            np.stack(parts).sum(0, dtype=np.float64)
            for parts in zip(*(moments.second[n.name] for n in nodes), strict=True)
        ]
        for bits in weight_bits:
            on_steps = on_grid(weight.reshape(len(weight), -1), second, 2 ** (bits - 1) - 1)
            values = np.moveaxis(on_steps.reshape(weight.shape).astype(np.float32), 0, axis)
            out.graph.initializer.append(
                constant(np.ascontiguousarray(values), rounded_name(name, bits), apart)
            )
    return out


def on_grid(
    weight: np.ndarray, second: Sequence[np.ndarray], steps_a_side: int = 127
) -> np.ndarray:
    """Round weights (out, in) to whole multiples of each row's largest / steps_a_side, by the
    second moments of what they multiply, (n, n) for each of the blocks that divide the inputs.

    What a weight's rounding breaks is compensated by weights of its own block. A row's largest
    weight stays, and with it the scale.
    """
    scale = np.abs(weight).max(1, keepdims=True) / steps_a_side
    scale[scale == 0] = 1
    codes, start = np.empty_like(weight), 0
    for moments in second:
        part = slice(start, start + len(moments))
        codes[:, part] = _codes(weight[:, part], moments, scale, steps_a_side)
        start = part.stop
    largest = np.abs(weight).argmax(1)
    rows = np.arange(len(weight))
    codes[rows, largest] = steps_a_side * np.sign(weight[rows, largest])
    return codes * scale


def _codes(
    weight: np.ndarray, second: np.ndarray, scale: np.ndarray, steps_a_side: int
) -> np.ndarray:
    """Return the steps of (out, n) weights; the nearest ones if nothing was seen."""
    mean = float(np.diag(second).mean())
    if not np.isfinite(mean) or mean <= 0:
        return np.clip(np.rint(weight / scale), -steps_a_side, steps_a_side)
    order = np.argsort(-np.diag(second), kind="stable")
    damped = second[np.ix_(order, order)] + DAMPING * mean * np.eye(len(second))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, steps = weight[:, order].copy(), np.zeros_like(weight)
    for k in range(len(order)):
        steps[:, k] = np.clip(np.rint(left[:, k] / scale[:, 0]), -steps_a_side, steps_a_side)
        wrong = (left[:, k] - steps[:, k] * scale[:, 0]) / upper[k, k]
        left[:, k + 1 :] -= np.outer(wrong, upper[k, k + 1 :])
    codes = np.empty_like(steps)
    codes[:, order] = steps
    return codes
