"""What an ONNX file says goes in and comes out, read without a runtime and without onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .protobuf import Message

FLOAT = 1  # TensorProto.DataType
# numbers of fields in onnx.proto
GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 1, 5, 11, 12
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE = 1, 2, 1
ELEMENT, SHAPE, DIMENSION, DIMENSION_VALUE = 1, 2, 1, 1
TENSOR_NAME = 8
Shape = tuple[int | None, ...]  # None: an axis that varies


@dataclass(frozen=True)
class Declared:
    """Inputs by name, and the single output."""

    inputs: Mapping[str, Shape]
    output: Shape


def declared(data: bytes) -> Declared:
    """Of an ONNX file. ValueError says why it is no graph of a generator: float32 tensors of known
    rank in, one out.
    """
    graph = Message(memoryview(data)).one(GRAPH)
    if graph is None:
        raise ValueError("it holds no graph")
    constants = {tensor.text(TENSOR_NAME) for tensor in graph.all(GRAPH_INITIALIZER)}
    inputs = {
        name: shape
        for name, shape in map(_value, graph.all(GRAPH_INPUT))
        if name not in constants  # files of before IR 4 list those among the inputs
    }
    outputs = list(map(_value, graph.all(GRAPH_OUTPUT)))
    if not inputs or len(outputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    return Declared(inputs, outputs[0][1])


def _value(value: Message) -> tuple[str, Shape]:
    name, kind = value.text(VALUE_NAME), value.one(VALUE_TYPE)
    tensor = None if kind is None else kind.one(TENSOR_TYPE)
    shape = None if tensor is None else tensor.one(SHAPE)
    if tensor is None or shape is None or tensor.integer(ELEMENT) != FLOAT:
        raise ValueError(f"{name!r} is no float32 tensor of known rank")
    return name, tuple(dim.integer(DIMENSION_VALUE) or None for dim in shape.all(DIMENSION))
