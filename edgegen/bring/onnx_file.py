"""Read what an ONNX file of another program holds, and check whether it can become a generator's
graph.

The caller has checked the bytes before a native parser reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.weights import stored
from ..errors import InputError, UsageError
from .folder_files import CODE
from .onnx_inputs import FileInput

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

FLOAT, INT64 = 1, 7  # TensorProto.DataType
KINDS = {FLOAT: "float32", INT64: "int64"}
# weights of these types have lost the full precision that an export starts from
NARROW = {2: "uint8", 3: "int8", 10: "float16", 11: "float64", 16: "bfloat16"}
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"})


@dataclass(frozen=True)
class OnnxFile:
    """Hold a model with only the wanted output and what it needs; `fixed`: it takes one image at a
    time.
    """

    path: Path
    model: ModelProto = field(repr=False)
    inputs: tuple[FileInput, ...]
    output: str
    fixed: bool


def held_in(model: ModelProto, path: Path, output: str | None, noise: str | None) -> OnnxFile:
    """Return what is in a model, without executing it.

    `output` is a name, needed if there are several; `noise` is the input that shows whether the
    batch varies, the first if None. Raises InputError for a model that cannot become a generator's
    graph, UsageError for an output that must be named or does not exist.
    """
    import onnx

    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    name = _keep_output(kept.graph, output, path)
    check_weights(kept.graph, path)
    constants = {tensor.name for tensor in kept.graph.initializer}
    values = [value for value in kept.graph.input if value.name not in constants]
    del kept.graph.input[:]  # files from before IR 4 list weights among the inputs
    kept.graph.input.extend(values)
    shapes = {value.name: _shape(value, path) for value in values}
    if not shapes:
        raise InputError(CODE, "it takes no inputs", path=path)
    first = shapes[noise if noise in shapes else next(iter(shapes))][1]
    fixed = bool(first) and first[0] is not None
    if fixed and first[0] != 1:
        raise InputError(
            CODE,
            f"it takes {first[0]} images at a time, no more and no fewer",
            path=path,
            hint="export it with a batch axis that varies, or of 1",
        )
    inputs = tuple(_input(own, kind, shape, fixed) for own, (kind, shape) in shapes.items())
    return OnnxFile(path, kept, inputs, name, fixed)


def input_names(model: ModelProto) -> list[str]:
    """Return the names of the inputs that must be given."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in constants]


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield all nodes, including those of graphs within the graph."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def _keep_output(graph: GraphProto, wanted: str | None, path: Path) -> str:
    """Reduce the graph to one output and what it needs, and return its name."""
    names = [value.name for value in graph.output]
    if wanted is None and len(names) != 1:
        shown = ", ".join(repr(name)[:80] for name in names)
        raise UsageError(
            "E-USAGE",
            f"it has {len(names)} outputs, {shown}, and one makes the image",
            path=path,
            hint="name it: --output NAME",
        )
    if wanted is not None and wanted not in names:
        shown = ", ".join(repr(name)[:80] for name in names)
        raise UsageError(
            "E-USAGE", f"it has no output {wanted!r:.80}; there are {shown}", path=path
        )
    output = wanted or names[0]
    needed, nodes = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    needed.update(name for one in nodes_of(inner) for name in one.input)
                    needed.update(value.name for value in inner.output)
    if output not in {name for node in nodes for name in node.output}:
        raise InputError(CODE, f"nothing computes its output {output!r:.80}", path=path)
    for values, kept in (
        (graph.node, nodes[::-1]),
        (graph.output, [value for value in graph.output if value.name == output]),
        (graph.initializer, [one for one in graph.initializer if one.name in needed]),
    ):
        copies = [type(one).FromString(one.SerializeToString()) for one in kept]
        del values[:]
        values.extend(copies)
    return output


def check_weights(graph: GraphProto, path: Path) -> None:
    """Raise InputError for a graph that is already quantized or rounded, and for values that are
    not finite.
    """
    for node in nodes_of(graph):
        if node.op_type in QUANTIZED:
            raise InputError(
                CODE,
                f"it is quantized already: {node.op_type} makes {node.output[0]!r:.80}",
                path=path,
                hint="bring the file in full precision",
            )
    for tensor in graph.initializer:
        if tensor.data_type in NARROW and len(tensor.dims) > 1:
            raise InputError(
                CODE,
                f"its weight {tensor.name!r:.80} is {NARROW[tensor.data_type]}, and float32 is "
                "wanted",
                path=path,
                hint="export it in float32",
            )
        if tensor.data_type == FLOAT and not np.isfinite(stored(tensor)).all():
            raise InputError(
                "E-NONFINITE", f"{tensor.name!r:.80} holds NaN or infinite values", path=path
            )


def _shape(value: object, path: Path) -> tuple[str, tuple[int | None, ...]]:
    """Return the number type and the axes of an input; None stands for an axis that varies."""
    tensor = value.type.tensor_type  # type: ignore[attr-defined]
    name = value.name  # type: ignore[attr-defined]
    if tensor.elem_type not in KINDS or not tensor.HasField("shape"):
        raise InputError(
            CODE,
            f"its input {name!r:.80} is no float32 or int64 tensor of known axes",
            path=path,
            hint="export it with inputs in float32",
        )
    return KINDS[tensor.elem_type], tuple(d.dim_value or None for d in tensor.shape.dim)


def _input(name: str, kind: str, shape: tuple[int | None, ...], fixed: bool) -> FileInput:
    has_batch = bool(shape) and (shape[0] is None or (fixed and shape[0] == 1))
    if has_batch:
        return FileInput(name, shape[1:], kind)
    one_number = all(axis == 1 for axis in shape)
    return FileInput(name, shape[1:] if shape and one_number else None, kind, one_number)
