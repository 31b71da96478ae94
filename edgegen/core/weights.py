"""The weights of an ONNX graph, read alike wherever they lie: in the model itself, or mapped from a
file of which the model holds name, offset and length.

While a model is in memory, that name is a path; in a file it is the name of one beside it. A weight
that is stored in half precision reaches float32 operators through a Cast, and one that is stored
the other way round through a Transpose; it counts as a constant all the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .reader import mapped
from .spec import Array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

SUFFIX = ".weights"  # of the file beside GRAPH.onnx
APART_BYTES = 64 << 20  # of a graph's weights, beyond which they lie in a file of their own
INLINE_BYTES = 64 << 10  # of a tensor, up to which it stays in the graph even then
WORTH_HALVING = 1024  # numbers of a weight, below which float16 saves next to nothing
STORED = "stored"  # behind the name of a half-precision weight, before its Cast
ALIGNMENT = 4096  # of a tensor in the file: runtimes map it page by page
_EXTERNAL = 1  # TensorProto.DataLocation
_FLOAT, _HALVES = 1, (10, 16)  # TensorProto.DataType: float32; float16 and bfloat16


def is_apart(tensor: TensorProto) -> bool:
    """Whether its values lie in a file of their own."""
    return bool(tensor.data_location == _EXTERNAL)


def place(tensor: TensorProto) -> tuple[str, int, int]:
    """Name of the file, offset and length, of a tensor that is apart."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    return said["location"], int(said.get("offset", "0")), int(said["length"])


def stored(tensor: TensorProto) -> Array:
    """Its values in the type in which they are stored; mapped, not read, where they are apart."""
    from onnx import helper, numpy_helper

    if not is_apart(tensor):
        own: Array = numpy_helper.to_array(tensor)
        return own
    name, offset, length = place(tensor)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.frombuffer(mapped(Path(name), offset, length), kind).reshape(tuple(tensor.dims))


def stored_bytes(tensor: TensorProto) -> int:
    """Of its values, without reading them."""
    from onnx import helper

    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return math.prod(tensor.dims) * kind.itemsize


def total_bytes(model: ModelProto) -> int:
    """Of all weights."""
    return sum(map(stored_bytes, model.graph.initializer))


class GraphConstants(Mapping[str, Array]):
    """GraphConstants of a graph by name: its initializers, and what a Cast makes of those in half
    precision, or a Transpose of matrices. Values are read when they are asked for, and are not
    kept.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._kinds: dict[str, int] = {}  # of what a node makes of one
        self._turned: set[str] = set()  # matrices that are stored the other way round
        for node in graph.node:
            if not node.input or node.input[0] not in self._tensors:
                continue
            source, name = node.input[0], node.output[0]
            kind = _kind_of(node, self.kind(source), len(self._tensors[source].dims))
            if kind is not None:
                self._kinds[name] = kind
                self._tensors[name] = self._tensors[source]
                if (node.op_type == "Transpose") != (source in self._turned):
                    self._turned.add(name)

    def __getitem__(self, name: str) -> Array:
        from onnx import helper

        values = stored(self._tensors[name])
        kind = self._kinds.get(name)
        if kind is not None:
            values = values.astype(helper.tensor_dtype_to_np_dtype(kind), copy=False)
        return values.T if name in self._turned else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def stored_in(self, name: str, kind: int) -> TensorProto | None:
        """As it is stored, where that is in this type and the same way round; else None."""
        tensor = self._tensors[name]
        return None if name in self._turned or tensor.data_type != kind else tensor

    def is_made(self, node: NodeProto) -> bool:
        """Whether the node is the Cast or Transpose behind one of them."""
        return bool(node.output) and node.output[0] in self._kinds

    def kept(self, nodes: Iterable[NodeProto], wanted: Collection[str] = ()) -> list[NodeProto]:
        """Of these nodes, all but the Casts and Transposes behind constants that none of them
        reads, and that nobody wants.
        """
        left = list(nodes)
        read = {name for node in left for name in node.input if not self.is_made(node)}
        read.update(wanted)
        for node in reversed(left):
            if self.is_made(node) and node.output[0] in read:
                read.update(node.input)
        return [node for node in left if not self.is_made(node) or node.output[0] in read]

    def shape(self, name: str) -> tuple[int, ...]:
        dims = tuple(self._tensors[name].dims)
        return dims[::-1] if name in self._turned else dims

    def kind(self, name: str) -> int:
        """TensorProto.DataType of what a node that reads it sees."""
        return self._kinds.get(name) or self._tensors[name].data_type


def _kind_of(node: NodeProto, kind: int, axes: int) -> int | None:
    """What a node makes of a constant of that kind; None where that is no constant to us."""
    if node.op_type == "Cast":
        (wanted,) = (a.i for a in node.attribute if a.name == "to")
        return int(wanted) if wanted == _FLOAT and kind in _HALVES else None
    if node.op_type == "Transpose" and axes == 2 and kind in (_FLOAT, *_HALVES):
        order = [i for a in node.attribute if a.name == "perm" for i in a.ints]
        return kind if order in ([], [1, 0]) else None
    return None


def digest(model: ModelProto) -> bytes:
    """Of a model with the values of its weights, wherever they lie."""
    from onnx import ModelProto

    if not any(map(is_apart, model.graph.initializer)):
        return bytes(model.SerializeToString(deterministic=True))
    light, found = ModelProto(), hashlib.sha256()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if is_apart(tensor):
            found.update(stored(tensor).reshape(-1).view(np.uint8).data)
            tensor.ClearField("external_data")
    return bytes(light.SerializeToString(deterministic=True)) + found.digest()
