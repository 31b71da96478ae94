"""Find which convolutions of the terrain model tolerate INT8, with plans made by hand on both
runtimes; weights are rounded to nearest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _measure import in_turns, median
from onnx import NodeProto

from edgegen.core.plan import Plan, Precision
from edgegen.core.progress import silent
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import BENCHMARKS
from edgegen.core.weights import GraphConstants
from edgegen.evidence.distances import PairedPsnr, squared_error
from edgegen.evidence.full_side import pixels_of
from edgegen.export import qdq, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import Calibration, calibrate_graphs
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.generators import load_generator
from edgegen.workflows.source_choices import SourceChoices

RUNTIMES = ("onnxruntime", "openvino")
FEEDS, IMAGES, BATCH, ROUNDS = 32, 4, 2, 3
PARTS = 4
EVEN = 100.0  # largest value right behind a normalization
Row = dict[str, Any]
Layers = Mapping[str, Sequence[str]]  # name of a plan -> its convolutions in INT8


def plans(terrain: Path) -> Iterator[Row]:
    """Yield a row for each plan and runtime, and one for full precision; scripts/real_models.py
    makes `terrain`.
    """
    given = ("noisy=noise", "sigma=timestep", f"difficulty={terrain / 'difficulty.npy'}")
    choices = SourceChoices(inputs=given, sampler=terrain / "sampler.json")
    source = load_generator(terrain / "model.onnx", choices=choices)
    models = fp32_models(source)
    feeds = Trajectories(source.generator, FEEDS)
    found = calibrate_graphs(source, models, feeds, Context.of(1, None, silent))
    full = {host: hosted(models, source.generator, 1, runtime(host)) for host in RUNTIMES}
    seeds = BENCHMARKS.take(IMAGES)
    wanted = pixels_of(full["onnxruntime"], seeds)
    spent = {host: cpu_ms(pipeline) for host, pipeline in full.items()}
    base = min(spent.values())
    for host, ms in spent.items():
        yield {"plan": "FP32", "runtime": host, "ms an image": ms, "speed": round(base / ms, 2)}
    for what, layers in candidates(found).items():
        for host in RUNTIMES:
            plan = only(found, layers)
            files = {
                name: qdq.quantize(model, name, plan, runtime(host).dialect)
                for name, model in found.models.items()
            }
            pipeline = hosted(files, source.generator, 1, runtime(host))
            errors = squared_error(wanted, pixels_of(pipeline, seeds))
            ms, reference = cpu_ms(pipeline), min(map(cpu_ms, full.values()))
            row = {
                "plan": what,
                "in INT8": len(layers),
                "runtime": host,
                "ms an image": ms,
                "speed": round(reference / ms, 2),
                "PSNR dB": round(PairedPsnr.of(errors).pooled_db, 1),
            }
            print(json.dumps(row), flush=True)
            yield row


def candidates(found: Calibration) -> Layers:
    """Return the plans: all but the ends, all without the last part, single parts, and 3 x 3
    convolutions, also by what they read.
    """
    ((graph, model),) = found.models.items()
    dialect = runtime(RUNTIMES[0]).dialect
    nodes = [n for n in qdq.int8_nodes(model, graph, found.plan, dialect) if n.op_type == "Conv"]
    names = [node.name for node in nodes]
    count = len(names)
    ranges = found.plan.ranges[graph]
    constants = GraphConstants(model.graph)
    wide = [n for n in nodes if _is_wide(n, constants)]
    even = [n.name for n in wide if ranges[n.input[0]].high <= EVEN]
    parts = [names[k * count // PARTS : (k + 1) * count // PARTS] for k in range(PARTS)]
    return {
        "3 x 3 that read normalized values": even,
        "the same, last third in FP32": [n for n in even if n in names[: count * 2 // 3]],
        "all but the ends": names,
        "last third in FP32": names[: count * 2 // 3],
        "last half in FP32": names[: count // 2],
        "3 x 3": [n.name for n in wide],
        **{f"part {k + 1} of {PARTS} alone": part for k, part in enumerate(parts)},
    }


def _is_wide(node: NodeProto, constants: GraphConstants) -> bool:
    return constants.shape(node.input[1])[2:] == (3, 3)


def only(found: Calibration, layers: Sequence[str]) -> Plan:
    """Return a plan with these convolutions in INT8, and nothing else."""
    (graph,) = found.models
    rules: tuple[tuple[str, Precision], ...] = tuple((f"{graph}/{n}", "int8") for n in layers)
    return replace(found.plan, rules=rules, linear=())


def cpu_ms(pipeline: Pipeline) -> float:
    """Return the CPU milliseconds of an image, the median of a few batches on one thread."""
    spent = in_turns({"": lambda _: pipeline(range(BATCH))}, ROUNDS)[""]
    return round(1e3 * median(spent).cpu / BATCH, 1)
