"""Export a graph as FP32 ONNX: one file with dynamic named axes, without paths or stack traces, the
same bytes each time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import onnx
import torch

from edgegen.core.graph import ExportGraph, Graph
from edgegen.core.onnx_graph import OnnxGraph
from edgegen.core.weight_file import write_model
from edgegen.core.weights import GraphConstants
from edgegen.errors import EdgegenError

from . import fake, sound
from .opset import OPSET

# Most images at once that torch is told of. Nothing in a file depends on it; but diffusers asks, to
# no effect, whether there are 64 or more, and torch traces twice for a range on both sides of that.
MOST_TRACED = 63


def to_onnx(graph: ExportGraph, name: str) -> onnx.ModelProto:
    """Return the graph as an ONNX model named `name`.

    Raises EdgegenError if torch cannot export it or a weight is not finite.
    """
    if isinstance(graph, OnnxGraph):
        model = onnx.load_from_string(graph.model)
        _strip(model, name)
        return model
    if isinstance(graph, Graph):
        return traced(graph, name)[0]
    raise TypeError(f"no graph that can be written: {type(graph).__name__}")


def traced(graph: Graph, name: str) -> tuple[onnx.ModelProto, torch.export.ExportedProgram]:
    """Return the ONNX model, and the torch program it was written from, whose nodes have the names
    of the model's tensors.
    """
    for key, value in [*graph.module.named_parameters(), *graph.module.named_buffers()]:
        if value.is_meta:  # its values lie in a file whose reader has checked them
            continue
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise EdgegenError(
                "E-NONFINITE", f"{name}.{key} holds NaN or infinite values; INT8 would hide them"
            )
    axes = {
        axis: torch.export.Dim(axis, min=1, max=MOST_TRACED)
        for spec in graph.inputs
        for axis in spec.dynamic.values()
    }
    module, mode = fake.weightless(graph) if graph.weights else (graph.module, nullcontext())
    with mode:
        examples = tuple(
            torch.zeros(spec.sized(**{a: 2 for a in axes}), dtype=getattr(torch, spec.dtype))
            for spec in graph.inputs
        )
    shapes = tuple({i: axes[a] for i, a in spec.dynamic.items()} for spec in graph.inputs)
    with warnings.catch_warnings(), _quiet("torch.onnx"), _uncollected(), mode:
        # silences the exporter's own deprecation warnings, which change with each release
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            external_data=False,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[graph.output.name],
            dynamic_shapes=shapes,
            optimize=not graph.weights,  # optimizing would compute with the weights
        )
    if program is None or program.exported_program is None:
        raise EdgegenError("E-EXPORT", f"torch returned no ONNX program for graph {name!r}")
    if graph.weights:
        model = fake.pointed(program.model, graph.weights, name)
    else:
        model = program.model_proto
    _strip(model, name)
    sound.check(model)
    return model, program.exported_program


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let that logger report only errors while the block runs."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Switch garbage collection off while the block runs: a quarter of tracing went into examining
    objects that are all still needed.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _strip(model: onnx.ModelProto, name: str) -> None:
    """Remove source paths and stack traces and name nodes by their place, so that nothing of this
    machine gets into the file.
    """
    del model.metadata_props[:], model.functions[:]
    model.graph.name, model.producer_name, model.producer_version, model.doc_string = (
        name,
        "edgegen",
        "",
        "",
    )
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    weights = GraphConstants(model.graph)
    taken: set[str] = set()
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        weight = node.input[1] if len(node.input) > 1 else ""
        # the exporter keeps module paths in initializer names
        named = weight in weights and weight.endswith(".weight")
        name = weight.removesuffix(".weight") if named else f"{node.op_type}.{node.output[0]}"
        # two nodes may read the same weight
        node.name = f"{name}.{node.output[0]}" if name in taken else name
        taken.add(node.name)
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def write(model: onnx.ModelProto, path: Path) -> Path:
    """Serialize deterministically into one file, or into two if the weights are large."""
    write_model(model, path)
    return path
