"""Rewrite graphs before they are quantized: the rewrites that benchmarks/rewrites.py tries."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import patch

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from edgegen.core.graph import Graph, torch_graphs
from edgegen.export import onnx as onnx_files
from edgegen.families.lcd.attention import Folded
from edgegen.workflows.generators import LoadedGenerator, torch_pipeline

CALIBRATED = 128  # seeds of a calibration, as in an export
BALANCE = 0.5
Models = dict[str, onnx.ModelProto]


def halves_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """Split convolutions that read a concatenation into sums of one convolution for each part, each
    with its own range.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    shapes = {
        v.name: v.type.tensor_type.shape.dim[1].dim_value
        for v in onnx.shape_inference.infer_shapes(model).graph.value_info
        if len(v.type.tensor_type.shape.dim) == 4
    }
    joined = {
        n.output[0]: list(n.input)
        for n in model.graph.node
        if n.op_type == "Concat" and all(t in shapes for t in n.input)
    }
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[0] not in joined:
            nodes.append(node)
            continue
        first, total = 0, ""
        for k, part in enumerate(joined[node.input[0]]):
            made = onnx.NodeProto()
            made.CopyFrom(node)
            last = first + shapes[part]
            kernel = numpy_helper.from_array(
                np.ascontiguousarray(weights[node.input[1]][:, first:last]), f"{node.input[1]}.{k}"
            )
            out.graph.initializer.append(kernel)
            made.name, made.output[0] = f"{node.name}.{k}", f"{node.output[0]}.{k}"
            made.input[:] = [part, kernel.name, *(node.input[2:] if k == 0 else ())]
            nodes.append(made)
            if k:
                end = (
                    node.output[0]
                    if k == len(joined[node.input[0]]) - 1
                    else f"{node.output[0]}.to{k}"
                )
                nodes.append(
                    helper.make_node("Add", [total, made.output[0]], [end], f"{node.name}.sum{k}")
                )
                total = end
            else:
                total = made.output[0]
            first = last
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    read = {t for n in nodes for t in n.input}
    kept = [t for t in out.graph.initializer if t.name in read]
    del out.graph.initializer[:]
    out.graph.initializer.extend(kept)
    onnx.checker.check_model(out, full_check=True)
    return out


def attention_evened(source: LoadedGenerator) -> Models | None:
    """Apply SmoothQuant's migration inside attention: between queries and keys, and between values
    and what reads them, channel by channel.

    Returns None for a generator without such attention.
    """
    graphs = torch_graphs(source.generator.graphs())
    blocks = {
        k: [m for m in g.module.modules() if isinstance(m, Folded)] for k, g in graphs.items()
    }
    if not any(blocks.values()):
        return None
    seen = observed(source, graphs, [b for found in blocks.values() for b in found])
    with torch.no_grad():
        for block, rows in seen.items():
            width = len(rows["own"])
            q, k = rows["qkv"][:width], rows["qkv"][width : 2 * width]
            between = (k / q).sqrt()
            values = (
                rows["own"] ** BALANCE / block.own.weight.abs().amax((0, 2, 3)) ** (1 - BALANCE)
            ).clamp(1e-3, 1e3)
            factor = torch.cat([between, 1 / between, 1 / values])
            block.qkv.conv.weight *= factor[:, None, None, None]
            if block.qkv.conv.bias is not None:
                block.qkv.conv.bias *= factor
            block.own.weight *= values[None, :, None, None]
            crossing = (
                rows["cross"] ** BALANCE / block.cross.weight.abs().amax((0, 2, 3)) ** (1 - BALANCE)
            ).clamp(1e-3, 1e3)
            block.kv.weight[width:] /= crossing[:, None]
            block.cross.weight *= crossing[None, :, None, None]
    return {k: onnx_files.to_onnx(g, k) for k, g in graphs.items()}


def observed(
    source: LoadedGenerator, graphs: Mapping[str, Graph], blocks: list[Folded]
) -> dict[Folded, dict[str, torch.Tensor]]:
    """Return the largest magnitudes in each channel of what qkv writes, and of what `own` and
    `cross` read.
    """
    seen: dict[Folded, dict[str, torch.Tensor]] = {b: {} for b in blocks}

    def keep(block: Folded, what: str, x: torch.Tensor) -> None:
        largest = x.abs().amax((0, 2, 3)).clamp(min=1e-6)
        seen[block][what] = torch.maximum(seen[block].get(what, largest), largest)

    hooks = []
    for b in blocks:
        hooks.append(b.qkv.register_forward_hook(lambda _, __, out, b=b: keep(b, "qkv", out)))
        for what in ("own", "cross"):
            layer: nn.Module = getattr(b, what)
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, given, b=b, what=what: keep(b, what, given[0])
                )
            )
    with patch.object(type(source.generator), "graphs", lambda _: graphs):
        torch_pipeline(source.generator)(range(CALIBRATED // 4))
    for hook in hooks:
        hook.remove()
    return seen
