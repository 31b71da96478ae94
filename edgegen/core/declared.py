"""The inputs and outputs that an ONNX file declares, read without a runtime and without onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .protobuf import Message

FLOAT, INT64 = 1, 7  # TensorProto.DataType
# field numbers in onnx.proto
GRAPH, GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 7, 1, 5, 11, 12
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE = 1, 2, 1
ELEMENT, SHAPE, DIMENSION, DIMENSION_VALUE = 1, 2, 1, 1
TENSOR_NAME = 8
Shape = tuple[int | None, ...]  # None: an axis that varies


@dataclass(frozen=True)
class Declared:
    """The shapes of a graph's inputs, by name, and of its single output.

    integers: names of the inputs that are int64; all others are float32.
    """

    inputs: Mapping[str, Shape]
    output: Shape
    integers: tuple[str, ...] = ()


def declared(data: bytes, tokens: bool = False) -> Declared:
    """Read the declared inputs and output of an ONNX file from its bytes.

    tokens: allows int64 inputs, as a text encoder has. ValueError says why the file cannot be a
    generator's graph, which takes float32 tensors of known rank and gives one.
    """
    graph = Message(memoryview(data)).one(GRAPH)
    if graph is None:
        raise ValueError("it holds no graph")
    constants = {tensor.text(TENSOR_NAME) for tensor in graph.all(GRAPH_INITIALIZER)}
    inputs = {
        name: (shape, element)
        for name, shape, element in map(_value, graph.all(GRAPH_INPUT))
        if name not in constants  # before IR version 4, files list constants among the inputs
    }
    outputs = list(map(_value, graph.all(GRAPH_OUTPUT)))
    if not inputs or len(outputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
    integers = tuple(name for name, (_, element) in inputs.items() if element == INT64)
    if (integers and not tokens) or outputs[0][2] != FLOAT:
        raise ValueError(f"{[*integers, outputs[0][0]][0]!r} is no float32 tensor of known rank")
    return Declared({name: shape for name, (shape, _) in inputs.items()}, outputs[0][1], integers)


def _value(value: Message) -> tuple[str, Shape, int]:
    name, kind = value.text(VALUE_NAME), value.one(VALUE_TYPE)
    tensor = None if kind is None else kind.one(TENSOR_TYPE)
    shape = None if tensor is None else tensor.one(SHAPE)
    element = 0 if tensor is None else tensor.integer(ELEMENT)
    if shape is None or element not in (FLOAT, INT64):
        raise ValueError(f"{name!r} is no float32 tensor of known rank")
    sizes = tuple(dim.integer(DIMENSION_VALUE) or None for dim in shape.all(DIMENSION))
    return name, sizes, element
