"""Rewrite an ONNX file as a graph of edgegen's: inputs as samplers give them, a batch that varies,
weights where the INT8 writer looks for them, and images in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.spec import TensorSpec
from ..errors import InputError
from .folder_files import CODE
from .onnx_file import FLOAT, OnnxFile
from .onnx_inputs import FittedInput

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

ODD = re.compile(r"[^\w./:-]", re.ASCII)  # characters that a pattern of a plan would interpret
Range = tuple[float, float]  # smallest and largest value of a pixel in the file's images


def rewritten(
    file: OnnxFile,
    raised: ModelProto,
    inputs: Sequence[FittedInput],
    output: TensorSpec,
    scale: Range | None,
) -> ModelProto:
    """Return the rewritten model.

    `raised` is the file's model in the target opset; `output` is what comes out, with its new name;
    `scale` is the range of what comes out, if it is not [-1, 1] already. Raises InputError if
    shapes no longer fit once the batch varies.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(raised)
    graph = model.graph
    del graph.value_info[:]
    _weights_in_place(graph)
    names = _new_names(graph, inputs, file.output, output.name, scale is not None)
    _rename(graph, names)
    drawn = graph.output[0].name
    _feed(graph, inputs, names)
    if scale is not None:
        graph.node.extend(affine(drawn, output.name, scale, graph))
    del graph.output[:]
    graph.output.append(_declared(replace(output, shape=("rows", *output.shape[1:]))))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        rows = inferred.graph.output[0].type.tensor_type.shape.dim[0]
        if rows.dim_value:
            raise ValueError(f"whatever goes in, {rows.dim_value} comes out")
        graph.output[0].CopyFrom(_declared(output))
        onnx.checker.check_model(model, full_check=True)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        ValueError,
    ) as error:
        raise built_in(file, str(error)) from error
    return model


def built_in(file: OnnxFile, error: str) -> InputError:
    """Return the error for a file whose shapes do not fit once the batch varies."""
    what = " ".join(error.split())
    why = "its batch of 1 is built in" if file.fixed else "its shapes do not fit"
    return InputError(
        CODE,
        f"{why}: {what:.200}",
        path=file.path,
        hint="export it with a batch axis that varies",
    )


def image_graph(shape: Sequence[int], scale: Range | None, opset: int, ir: int) -> ModelProto:
    """Return the graph that turns the last x of a loop into an image in [-1, 1], unchanged or
    scaled.
    """
    from onnx import helper

    x, image = (TensorSpec(name, ("batch", *shape)) for name in ("x", "image"))
    graph = helper.make_graph([], "decoder", [_declared(x)], [_declared(image)])
    graph.node.extend(
        [helper.make_node("Identity", ["x"], ["image"])]
        if scale is None
        else affine("x", "image", scale, graph)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def affine(given: str, made: str, scale: Range, graph: GraphProto) -> list[Any]:
    """Return nodes that map [low, high] to [-1, 1], and add their constants to the graph."""
    from onnx import helper, numpy_helper

    low, high = scale
    numbers = {"range_factor": 2 / (high - low), "range_offset": -(high + low) / (high - low)}
    for name, number in numbers.items():
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    return [
        helper.make_node("Mul", [given, "range_factor"], ["in_range"]),
        helper.make_node("Add", ["in_range", "range_offset"], [made]),
    ]


def _declared(spec: TensorSpec) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(spec.name, FLOAT, list(spec.shape))


def _weights_in_place(graph: GraphProto) -> None:
    """Turn constants that are nodes, and other names of weights, into initializers."""
    from onnx import TensorProto

    weights = {tensor.name: tensor for tensor in graph.initializer}
    drawn = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        source = weights.get(node.input[0]) if node.input else None
        if node.op_type == "Constant" and value is not None:
            made = value
        elif node.op_type == "Identity" and source is not None and node.output[0] not in drawn:
            made = source
        else:
            nodes.append(node)
            continue
        tensor = TensorProto()
        tensor.CopyFrom(made)
        tensor.name = node.output[0]
        weights[tensor.name] = tensor
    kept, tensors = [type(n).FromString(n.SerializeToString()) for n in nodes], weights.values()
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(copies)


def _new_names(
    graph: GraphProto, inputs: Sequence[FittedInput], drawn: str, output: str, scaled: bool
) -> dict[str, str]:
    """Return old name to new name for each tensor that cannot keep its own."""
    made = [name for node in graph.node for name in node.output]
    names = {*made, *(t.name for t in graph.initializer), *(one.name for one in inputs)} - {""}
    ours = {one.spec.name for one in inputs} | {output, "in_range", "range_factor", "range_offset"}
    found = {one.name: one.spec.name for one in inputs if not one.steps}
    if not scaled:
        found[drawn] = output
    taken = names | ours
    for name in sorted(names - found.keys()):
        if name in ours or ODD.search(name):
            plain = base = f"own.{ODD.sub('_', name)}"
            number = 0
            while plain in taken:
                number += 1
                plain = f"{base}.{number}"
            taken.add(plain)
            found[name] = plain
    return found


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename tensors, also in the graphs within the graph, because they read what lies
    around them.
    """
    for node in graph.node:
        for tensors in (node.input, node.output):
            for place, name in enumerate(tensors):
                tensors[place] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    _rename(inner, names)
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _feed(graph: GraphProto, inputs: Sequence[FittedInput], names: Mapping[str, str]) -> None:
    """Declare the inputs as samplers give them, and put before the graph what turns them into its
    own.

    `names` has the graph's own names by those in the file.
    """
    from onnx import helper, numpy_helper

    before = []
    del graph.input[:]
    for one in inputs:
        graph.input.append(_declared(one.spec))
        given = one.spec.name
        for number, step in enumerate(one.steps, 1):
            is_last = number == len(one.steps)
            made = names.get(one.name, one.name) if is_last else f"{one.spec.name}.step{number}"
            constants = []
            for place, value in enumerate(step.constants):
                constants.append(f"{one.spec.name}.step{number}.{place}")
                graph.initializer.append(numpy_helper.from_array(value, constants[-1]))
            before.append(
                helper.make_node(step.operator, [given, *constants], [made], **step.attributes)
            )
            given = made
    nodes = [*before, *(type(n).FromString(n.SerializeToString()) for n in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
