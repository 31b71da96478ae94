"""A generator small enough to go through the whole export in seconds, and what it becomes on the
way; each made once.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from toys import CONFIG, shaken, shapes

from edgegen.calibrate.choose import Measured, ladder, multiplications
from edgegen.calibrate.choose import plan as choose
from edgegen.calibrate.observe import Observer
from edgegen.core.files import to_json
from edgegen.core.layers import CONVOLUTIONS
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Pipeline
from edgegen.core.spec import Array
from edgegen.evidence import reference
from edgegen.evidence.bench import record
from edgegen.evidence.features import feature_network
from edgegen.export import qdq
from edgegen.export.onnx import to_onnx
from edgegen.families.cas_dm import CasDm
from edgegen.training import checkpoint
from edgegen.workflows.generators import torch_pipeline

RUNTIMES = "onnxruntime,openvino" + (",tensorrt-rtx" if find_spec("tensorrt_rtx") else "")
# that random weights keep to, on however few images, for `export` and for `verify`
TERMS = (
    *("--fid-budget", "100%", "--min-psnr", "0"),
    *("--max-ruined", "2%", "--max-moved", "50%", "--max-apart", "20%"),
)
SIZE = 32  # pixels a side of the features: the smallest the network takes


@cache
def generator() -> CasDm:
    """16x16, unconditional, 4 steps; random weights everywhere."""
    made = shaken(CONFIG, scale=0.3)
    made.networks.eval()
    return made


@cache
def torch_images() -> Pipeline:
    return torch_pipeline(generator())


@cache
def models() -> dict[str, onnx.ModelProto]:
    """FP32 ONNX by graph."""
    return {name: to_onnx(graph, name) for name, graph in generator().graphs().items()}


@cache
def calls() -> dict[str, list[dict[str, Array]]]:
    """What each graph is asked along four trajectories."""
    return record(torch_images(), range(4))


@cache
def observers() -> dict[str, Observer]:
    """After 32 trajectories."""
    made = {
        k: Observer(m, qdq.candidates(m), generator().sampler.timesteps, 1)
        for k, m in models().items()
    }
    Pipeline(generator().latent, generator().sampler, made)(range(32))
    return made


@cache
def plan() -> Plan:
    return choose(models(), {k: o.stats for k, o in observers().items()})


def measured_plan() -> Plan:
    """Everything in INT8, with what a search writes of each convolution."""
    measured = [
        Measured(graph, node, damage=1.0 + k, saved=0.1, multiplications=count)
        for graph, model in models().items()
        for k, (node, count) in enumerate(
            (n.name, multiplications(model)[n.name])
            for n in model.graph.node
            if n.op_type in CONVOLUTIONS
        )
    ]
    return ladder(plan(), measured, "ms of CPU time")[0]


def finished_run(folder: Path) -> Path:
    """A run folder as `edgegen train` leaves it."""
    photos = shapes(64)
    folder.mkdir()
    data = {"sha256": photos.fingerprint, "images": len(photos), "classes": []}
    (folder / "run.json").write_bytes(
        to_json({**checkpoint.describe("cas-dm", CONFIG), "data": data})
    )
    (folder / checkpoint.WEIGHTS).write_bytes(
        checkpoint.to_bytes(dict(generator().networks.state_dict()))
    )
    network = feature_network("efficientnet-lite0", size=SIZE)
    reference.build(network(photos.pixels), network, "shapes", 8).write(
        folder / "reference.safetensors"
    )
    return folder


def export(
    source: Path | str, out: Path, *flags: str, runtimes: str = RUNTIMES, budget: str = "100%"
) -> int:
    """The exit code of `edgegen export`, with a budget that random weights stay within."""
    from edgegen.cli.main import run

    return run(
        [
            "export",
            str(source),
            "--int8",
            "--runtime",
            runtimes,
            *TERMS,
            "--fid-budget",
            budget,
            "--calibration",
            "32",
            "--max-images",
            "500",
            "--threads",
            "1",
            "-o",
            str(out),
            *flags,
        ]
    )


def conv_net(*shapes_of: tuple[int, int], concat: bool = False, seed: int = 0) -> onnx.ModelProto:
    """x (batch, c, 8, 8) through 3x3 convolutions (in, out) with ReLU between; concat: x joins what
    the last one reads.
    """
    rng = np.random.default_rng(seed)
    nodes, weights, tensor = [], [], "x"
    for k, (cin, out) in enumerate(shapes_of):
        if concat and k == len(shapes_of) - 1:
            nodes.append(onnx.helper.make_node("Concat", [tensor, "x"], ["joined"], "join", axis=1))
            tensor, cin = "joined", cin + shapes_of[0][0]
        values = {
            f"c{k}.weight": rng.normal(0, 0.3, (out, cin, 3, 3)),
            f"c{k}.bias": rng.normal(0, 0.1, out),
        }
        weights += [
            onnx.numpy_helper.from_array(v.astype(np.float32), n) for n, v in values.items()
        ]
        made = "y" if k == len(shapes_of) - 1 else f"h{k}"
        nodes.append(
            onnx.helper.make_node("Conv", [tensor, *values], [made], f"c{k}", pads=[1, 1, 1, 1])
        )
        tensor = made
        if made != "y":
            nodes.append(onnx.helper.make_node("Relu", [made], [f"r{k}"], f"relu{k}"))
            tensor = f"r{k}"
    return graph_of(nodes, weights, shapes_of[0][0], shapes_of[-1][1])


def graph_of(nodes: list[Any], weights: list[Any], cin: int, out: int) -> onnx.ModelProto:
    """x (batch, cin, 8, 8) -> y (batch, out, 8, 8)."""
    value = onnx.helper.make_tensor_value_info
    x, y = (
        value(n, onnx.TensorProto.FLOAT, ["batch", c, 8, 8]) for n, c in (("x", cin), ("y", out))
    )
    made = onnx.helper.make_graph(nodes, "g", [x], [y], weights)
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def everything_int8(model: onnx.ModelProto, low: float = -4.0, high: float = 4.0) -> Plan:
    """The same range for every tensor; every node int8."""
    return Plan((("*", "int8"),), {"g": {t: Range(low, high) for t in qdq.candidates(model)}})
