"""The graphs of a small generator of every family, each exported once, and graphs that break one
rule of a runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from toys import shake

from edgegen.core.plan import Plan, Precision, Range
from edgegen.core.spec import Array
from edgegen.export import qdq
from edgegen.export.onnx import to_onnx
from edgegen.families import FAMILIES, family

Graphs = dict[tuple[str, str], onnx.ModelProto]  # of the fixture every_graph
FP32: Precision = "fp32"
TYPES: dict[str, type] = {"int8": np.int8, "uint8": np.uint8}
# (family, graph), said here so that collecting tests exports nothing.
GRAPHS = (
    ("cas-dm", "theta"),
    ("cas-dm", "phi"),
    ("dkgm", "coarse"),
    ("dkgm", "debias"),
    ("isc-gan", "mapping"),
    ("isc-gan", "synthesis"),
    ("lcd", "denoiser"),
    ("lcd", "decoder"),
)


def export_every_graph(folder: Path) -> None:
    """FP32 ONNX of random weights, one file a graph of GRAPHS."""
    exported = []
    for name in FAMILIES:
        kind = family(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = kind.build(kind.recipes["tiny"]().config)
        shake(made.networks, 1, 0.1)
        made.networks.eval()
        for graph, value in made.graphs().items():
            exported.append((name, graph))
            onnx.save(to_onnx(value, graph), folder / f"{name} {graph}.onnx")
    assert tuple(exported) == GRAPHS, "a family has other graphs than GRAPHS says"


def int8_plan(model: onnx.ModelProto, graph: str, kept: Sequence[str] = ()) -> Plan:
    """Every convolution but `kept` in int8, every tensor in [-4, 4]."""
    rules = [(f"{graph}/{node}", FP32) for node in kept]
    return Plan(
        (*rules, ("*", "int8")), {graph: {t: Range(-4.0, 4.0) for t in qdq.candidates(model)}}
    )


def inputs(model: onnx.ModelProto, batch: int = 2, seed: int = 0) -> dict[str, Array]:
    """Normal noise of the shapes that its inputs have; times, which have one axis, in [0, 1)."""
    rng = np.random.default_rng(seed)
    sizes = {
        v.name: [d.dim_value or batch for d in v.type.tensor_type.shape.dim]
        for v in model.graph.input
    }
    return {
        n: (rng.normal(size=s) if len(s) > 1 else rng.random(s)).astype(np.float32)
        for n, s in sizes.items()
    }


def one_conv(
    activation: str = "int8",
    zero: int = 0,
    *,
    weights: str = "int8",
    per_channel: bool = True,
    bias: str = "float",
    cin: int = 16,
    concat: bool = False,
    output: bool = False,
    opset: int = 20,
) -> onnx.ModelProto:
    """x (batch, cin, 8, 8) -> y (batch, 16, 8, 8): one INT8 convolution called "conv", with one
    thing that some runtime minds.
    """
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}

    def pair(tensor: str, out: str, scale: float) -> str:
        constants.update(
            {
                f"{out}.s": np.asarray(scale, np.float32),
                f"{out}.z": np.asarray(zero, TYPES[activation]),
            }
        )
        code = [f"{out}.s", f"{out}.z"]
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *code], [f"{out}.q"], f"{out}.Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{out}.q", *code], [out], f"{out}.DQ"))
        return out

    read = "x"
    if concat:
        nodes.append(helper.make_node("Concat", ["x", "x"], ["joined"], "join", axis=1))
        read, cin = "joined", 2 * cin
    data = pair(read, "xd", 0.03)
    w, b = rng.normal(0, 0.3, (16, cin, 3, 3)), rng.normal(0, 0.1, 16).astype(np.float32)
    scale = (np.abs(w).reshape(16, -1).max(1) / 127).astype(np.float32)
    given = [data, "w", "b"]
    if weights == "float":
        constants["w"] = w.astype(np.float32)
    else:
        scale = scale if per_channel else scale.max().reshape(())
        shift = 128 if weights == "uint8" else 0
        code = np.rint(w / scale.reshape(-1, 1, 1, 1)).clip(-127, 127) + shift
        constants |= {
            "w.i": code.astype(TYPES[weights]),
            "w.s": scale,
            "w.z": np.full(scale.shape, shift, TYPES[weights]),
        }
        axis: Any = {"axis": 0} if per_channel else {}
        nodes.append(
            helper.make_node("DequantizeLinear", ["w.i", "w.s", "w.z"], ["w"], "w.DQ", **axis)
        )
    if bias == "int32":
        steps = (scale * np.float32(0.03)).astype(np.float32)
        constants |= {
            "b.i": np.rint(b / steps).astype(np.int32),
            "b.s": steps,
            "b.z": np.zeros(16, np.int32),
        }
        nodes.append(
            helper.make_node("DequantizeLinear", ["b.i", "b.s", "b.z"], ["b"], "b.DQ", axis=0)
        )
    else:
        constants["b"] = b
    nodes.append(helper.make_node("Conv", given, ["h" if output else "y"], "conv", pads=[1] * 4))
    if output:
        pair("h", "y", 0.1)
    value = helper.make_tensor_value_info
    width = cin // 2 if concat else cin
    ends = [value(n, TensorProto.FLOAT, ["batch", c, 8, 8]) for n, c in (("x", width), ("y", 16))]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made
