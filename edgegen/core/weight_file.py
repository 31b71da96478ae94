"""GRAPH.weights, the file beside GRAPH.onnx that holds the weights of a large graph: how it is
written, kept before it is in a bundle, and copied from one.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import put, put_parts
from .reader import opened, parts, sha256
from .spec import Array
from .temporary import scratch
from .weights import (
    ALIGNMENT,
    APART_BYTES,
    INLINE_BYTES,
    SUFFIX,
    GraphConstants,
    is_apart,
    place,
    stored,
    stored_bytes,
    total_bytes,
)

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_PART = 4 << 20  # bytes written at once


@dataclass(frozen=True)
class WeightFile:
    """The weights beside a graph's file.

    copy: writes their bytes to a new file and returns its sha256.
    """

    bytes: int
    sha256: Callable[[], str] = field(repr=False)
    copy: Callable[[Path], str] = field(repr=False)

    @classmethod
    def made_here(cls, path: Path) -> WeightFile:
        """Return the weight file at `path`, which this process made."""

        def copy(target: Path) -> str:
            with opened(path) as file:
                put_parts(target, parts(file.fileno(), path))
            return sha256(target)

        return cls(path.stat().st_size, lambda: sha256(path), copy)


@functools.cache
def working_folder() -> Path:
    """Return a private folder for weights not yet in a bundle, removed when the process exits."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch())


def constant(values: Array, name: str, apart: bool) -> TensorProto:
    """Return an initializer of these values.

    apart: whether values over INLINE_BYTES go into a file in the working folder. The file is named
    by its hash, so equal values in several plans of a search are stored once.
    """
    from onnx import TensorProto, helper, numpy_helper

    if not apart or values.nbytes <= INLINE_BYTES:
        return numpy_helper.from_array(values, name)
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    path = working_folder() / f"{hashlib.sha256(data).hexdigest()}{SUFFIX}"
    if not path.is_file():
        part = path.with_suffix(f".{threading.get_ident()}")  # threads write several plans at once
        put_parts(part, (data[k : k + _PART] for k in range(0, len(data), _PART)))
        part.replace(path)
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape
    )
    point(tensor, str(path), 0, values.nbytes)
    return tensor


def replaced(model: ModelProto, changed: Mapping[str, Array]) -> ModelProto:
    """Return a new model with these values in place of the constants of the same names."""
    from onnx import ModelProto

    out = ModelProto()
    out.CopyFrom(model)
    graph, constants = out.graph, GraphConstants(model.graph)
    own = [n for n in graph.node if not (constants.is_made(n) and n.output[0] in changed)]
    nodes = constants.kept(own, [value.name for value in graph.output])
    apart = any(map(is_apart, graph.initializer))
    there = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(constant(changed[tensor.name], tensor.name, apart))
    for name in changed:
        if name not in there:  # a Cast or Transpose made it: now it is stored as it is read
            graph.initializer.append(constant(changed[name], name, apart))
    if len(nodes) < len(graph.node):
        used = {tensor for node in nodes for tensor in node.input}
        cast = {n.input[0] for n in graph.node if constants.is_made(n)} - used
        kept = [tensor for tensor in graph.initializer if tensor.name not in cast]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
    return out


def write_model(model: ModelProto, path: Path) -> None:
    """Write the model as one file, or as two if its weights exceed APART_BYTES; deterministic."""
    if total_bytes(model) <= APART_BYTES:
        put(path, _placed(model, {}, "").SerializeToString(deterministic=True))
        return
    apart = [t for t in model.graph.initializer if stored_bytes(t) > INLINE_BYTES]
    weights = path.with_suffix(SUFFIX)
    sizes = [stored_bytes(tensor) for tensor in apart]
    offsets = laid_out(sizes)
    put_parts(weights, filled(offsets, (_bytes(tensor) for tensor in apart)))
    names = [tensor.name for tensor in apart]
    places = dict(zip(names, zip(offsets, sizes, strict=True), strict=True))
    put(path, _placed(model, places, weights.name).SerializeToString(deterministic=True))


def laid_out(sizes: Sequence[int]) -> list[int]:
    """Return offsets for tensors of these sizes in bytes, in order, each at a multiple of
    ALIGNMENT.
    """
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets


def filled(offsets: Sequence[int], tensors: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield in parts the bytes of a file that holds these tensors at these offsets."""
    end = 0
    for offset, tensor in zip(offsets, tensors, strict=True):
        yield memoryview(bytes(offset - end))
        for first in range(0, len(tensor), _PART):
            yield tensor[first : first + _PART]
        end = offset + len(tensor)


def _bytes(tensor: TensorProto) -> memoryview:
    return stored(tensor).reshape(-1).view(np.uint8).data


def point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Make the tensor external, at that file, offset and length, and clear its own values."""
    for field_name in ("raw_data", "external_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field_name)
    tensor.data_location = 1  # type: ignore[assignment]  # EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def located(model: ModelProto, folder: Path) -> ModelProto:
    """Change a model read from `folder` so that its external tensors have full paths; return it."""
    for tensor in model.graph.initializer:
        if is_apart(tensor):
            name, offset, length = place(tensor)
            point(tensor, str(folder / name), offset, length)
    return model


def _placed(model: ModelProto, places: dict[str, tuple[int, int]], location: str) -> ModelProto:
    """Return the model with the tensors of `places` in the file `location`, all others inline."""
    from onnx import ModelProto, numpy_helper

    if not places and not any(map(is_apart, model.graph.initializer)):
        return model
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        if tensor.name in places:
            point(tensor, location, *places[tensor.name])
        elif is_apart(tensor):
            tensor.CopyFrom(numpy_helper.from_array(stored(tensor), tensor.name))
    return out
