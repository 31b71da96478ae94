"""The weights of an ONNX graph, read in the same way from the model or from an external file.

For an external weight the model holds the file's name, offset and length. In memory the name is a
full path; in an ONNX file it is the name of a file beside it. A weight stored in half precision
reaches float32 operators through a Cast, and one stored transposed through a Transpose; both still
count as constants.
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

SUFFIX = ".weights"  # suffix of the file beside GRAPH.onnx
APART_BYTES = 64 << 20  # size of a graph's weights above which they go into a separate file
INLINE_BYTES = 64 << 10  # size of a tensor up to which it stays in the graph even then
WORTH_HALVING = 1024  # number of values below which float16 saves almost nothing
STORED = "stored"  # appended to the name of a half-precision weight, before its Cast
ALIGNMENT = 4096  # bytes to which tensors are aligned, because runtimes map the file by pages
_EXTERNAL = 1  # TensorProto.DataLocation
_FLOAT, _HALVES = 1, (10, 16)  # TensorProto.DataType: float32; float16 and bfloat16


def is_apart(tensor: TensorProto) -> bool:
    """Return whether the tensor's values lie in an external file."""
    return bool(tensor.data_location == _EXTERNAL)


def place(tensor: TensorProto) -> tuple[str, int, int]:
    """Return the file name, offset and length in bytes of an external tensor."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    return said["location"], int(said.get("offset", "0")), int(said["length"])


def stored(tensor: TensorProto) -> Array:
    """Return the tensor's values in their stored type; external values are mapped, not read."""
    from onnx import helper, numpy_helper

    if not is_apart(tensor):
        own: Array = numpy_helper.to_array(tensor)
        return own
    name, offset, length = place(tensor)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return np.frombuffer(mapped(Path(name), offset, length), kind).reshape(tuple(tensor.dims))


def stored_bytes(tensor: TensorProto) -> int:
    """Return the size of the tensor's values in bytes, without reading them."""
    from onnx import helper

    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return math.prod(tensor.dims) * kind.itemsize


def total_bytes(model: ModelProto) -> int:
    """Return the size of all weights of the model in bytes."""
    return sum(map(stored_bytes, model.graph.initializer))


class GraphConstants(Mapping[str, Array]):
    """The constants of a graph by name: its initializers, and the results of a Cast of one in half
    precision or a Transpose of a matrix. Values are read on access and not kept.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._kinds: dict[str, int] = {}  # data type by the name of a Cast's or Transpose's result
        self._turned: set[str] = set()  # matrices that are stored transposed
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
        """Return the stored tensor if it has that type and is not transposed, otherwise None."""
        tensor = self._tensors[name]
        return None if name in self._turned or tensor.data_type != kind else tensor

    def is_made(self, node: NodeProto) -> bool:
        """Return whether the node is a Cast or Transpose that makes one of the constants."""
        return bool(node.output) and node.output[0] in self._kinds

    def kept(self, nodes: Iterable[NodeProto], wanted: Collection[str] = ()) -> list[NodeProto]:
        """Return the nodes without the Casts and Transposes whose constants are not needed.

        A constant is needed if another node reads it or its name is in `wanted`.
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
        """Return the TensorProto.DataType that a node reading the constant sees."""
        return self._kinds.get(name) or self._tensors[name].data_type


def _kind_of(node: NodeProto, kind: int, axes: int) -> int | None:
    """Return the data type of a node's result if it counts as a constant, otherwise None."""
    if node.op_type == "Cast":
        (wanted,) = (a.i for a in node.attribute if a.name == "to")
        return int(wanted) if wanted == _FLOAT and kind in _HALVES else None
    if node.op_type == "Transpose" and axes == 2 and kind in (_FLOAT, *_HALVES):
        order = [i for a in node.attribute if a.name == "perm" for i in a.ints]
        return kind if order in ([], [1, 0]) else None
    return None


def digest(model: ModelProto) -> bytes:
    """Return bytes that identify a model with the values of its weights, wherever they lie."""
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
