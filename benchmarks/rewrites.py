"""What each rewrite before quantization is worth is measured, and those that were not taken too:
everything in INT8 but the ends, in one run.

    python -m benchmarks rewrites images NAME ... [--pairs 512] [--variants "balance*"]
        damage and speed of each
    python -m benchmarks rewrites tables BUNDLE ...
        rows of a table in place of the timestep's embedding
    python -m benchmarks rewrites products NAME ...
        share of multiplications that no convolution makes

images takes zoo names; a variant is what `edgegen export` does, the same without one step of it, or
with one step more. It is calibrated on 128 seeds and judged on pairs of images from seed 7,500,000
on, in 128 directions of the reference's features; the speed is that of a batch of 8, from noise to
image, against what export does, CPU time of one thread, interleaved medians.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from _measure import columns, in_turns, median
from _result import Part, Row, arguments_of, followed, report
from _rewritten_graphs import CALIBRATED, Models, attention_evened, halves_apart
from onnx import TensorProto, helper, numpy_helper

from edgegen.core.bundle import Bundle
from edgegen.core.fp32_last_steps import fp32_below, with_fp32_steps
from edgegen.core.offline import quietly
from edgegen.core.plan import Plan
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import BENCHMARKS
from edgegen.evidence import bench, reference
from edgegen.evidence.compare import compare
from edgegen.evidence.features import feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.looks import LookSchedule
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import Calibration, calibrate_graphs, weight_bits_of
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.generators import LoadedGenerator, load_generator

onnxruntime = quietly("onnxruntime")
FRESH = BENCHMARKS.take(1, 500_000)[0]
BATCH, ROUNDS = 8, 10
RUNTIMES = ("onnxruntime", "openvino")


def images(name: str, pairs: int, wanted: str) -> Iterator[Row]:
    """Yield a row for each variant and runtime."""
    source = load_generator(name)
    models, stored = fp32_models(source), reference.read(source.reference)
    full = hosted(models, source.generator, 1)
    side = FullSide(full, feature_network(stored.network, None, stored.size), stored, FRESH)
    recorded = bench.record(full, range(BATCH))
    usual: Calibration | None = None
    for what, variant in variants(source, models, len(fp32_below(recorded, 1)) > 0).items():
        if usual is not None and not fnmatchcase(what, wanted):
            continue
        found = variant()
        if found is None:
            continue
        usual = usual or found
        for target in RUNTIMES:
            mine, theirs = (written(m, target, source, models, recorded) for m in (found, usual))
            judged = compare(side, mine, 0.02, LookSchedule.once(pairs))
            step = bench.latencies({"mine": mine, "usual": theirs}, recorded, 1, ROUNDS)
            yield {
                "variant": what,
                "runtime": target,
                **columns("FD change", judged.verdict.change),
                "FD INT8-FP32": judged.distance_between,
                "PSNR dB": judged.psnr_db,
                "speed against export's": step["usual"].cpu_ms / step["mine"].cpu_ms,
            }


def written(
    found: Calibration, target: str, source: LoadedGenerator, models: Models, recorded: bench.Feeds
) -> Pipeline:
    """Return a pipeline of the calibration's Q/DQ files on that runtime, with FP32 for the steps
    that its plan leaves to it.
    """
    files = {
        k: qdq.quantize(m, k, found.plan, runtime(target).dialect) for k, m in found.models.items()
    }
    made, full = (hosted(m, source.generator, 1, runtime(target)) for m in (files, models))
    return replace(
        made, call=with_fp32_steps(made.call, full.call, fp32_below(recorded, found.plan.last))
    )


def variants(
    source: LoadedGenerator, models: Models, steps: bool
) -> Mapping[str, Callable[[], Calibration | None]]:
    """Return the variants, first what an export does; one returns None if it does not apply to this
    generator.

    `steps` says whether the generator has several sampler steps, of which the last may run in FP32.
    """
    apart = {k: halves_apart(m) for k, m in models.items()}
    as_they_are = patch(
        "edgegen.workflows.export.calibration.equalized", lambda model, largest: model
    )

    def on(
        given: Models, around: AbstractContextManager[Any] | None = None, rounding: bool = True
    ) -> Calibration:
        with around or nullcontext():
            feeds = Trajectories(source.generator, CALIBRATED)
            return calibrate_graphs(
                source,
                given,
                feeds,
                Context(),
                weight_bits=weight_bits_of(RUNTIMES) if rounding else (),
            )

    def min_max() -> Calibration:
        found = on(models)
        ranges = {
            k: {**of, **{t: h.seen for t, h in found.histograms[k].items()}}
            for k, of in found.plan.ranges.items()
        }
        return replace(found, plan=Plan(found.plan.rules, ranges))

    def last(count: int) -> Calibration | None:
        found = on(models)
        return replace(found, plan=replace(found.plan, last=count)) if steps else None

    split = (
        apart if any(len(apart[k].graph.node) > len(models[k].graph.node) for k in models) else None
    )
    return {
        "as export does": lambda: on(models),
        "the last step in FP32": lambda: last(1),
        "the last two in FP32": lambda: last(2),
        "channels as they are": lambda: on(models, as_they_are),
        "balance 0.3": lambda: on(models, patch("edgegen.calibrate.equalize.BALANCE", 0.3)),
        "balance 0.7": lambda: on(models, patch("edgegen.calibrate.equalize.BALANCE", 0.7)),
        "balance 0.9": lambda: on(models, patch("edgegen.calibrate.equalize.BALANCE", 0.9)),
        "weights to nearest": lambda: on(models, rounding=False),
        "ranges of all that was seen": min_max,
        "halves of concatenations apart": lambda: on(split) if split else None,
        "the same, channels as they are": lambda: on(split, as_they_are) if split else None,
        "attention evened as well": lambda: (lambda even: on(even) if even else None)(
            attention_evened(source)
        ),
    }


def tables(folder: str) -> Iterator[Row]:
    """Measure INT8 of each graph that reads a timestep, as it is and with everything that depends
    on the timestep alone looked up in tables: milliseconds, and their ratio.
    """
    bundle = Bundle.open(Path(folder))
    recorded = bench.record(bundle.pipeline(runtime("onnxruntime"), "fp32", 1), range(BATCH))
    for target in (t for t in RUNTIMES if t in bundle.manifest.runtimes):
        for graph, file in bundle.onnx(runtime(target), "int8").items():
            model = onnx.load(bundle.path(file))
            if "t" not in {v.name for v in model.graph.input}:
                continue
            calls = recorded[graph]
            looked_up = with_tables(model, sorted({float(t) for call in calls for t in call["t"]}))
            with tempfile.TemporaryDirectory() as place:
                sessions = {
                    name: runtime(target).load(onnx_files.write(m, Path(place) / f"{name}.onnx"), 1)
                    for name, m in (("embedding", model), ("table", looked_up))
                }
            middle = calls[len(calls) // 2]
            asked = {name: partial(_asked, call, middle) for name, call in sessions.items()}
            spent = in_turns(asked, 40 * ROUNDS, is_twice=True)
            pairs = zip(spent["embedding"], spent["table"], strict=True)
            yield {
                "runtime": target,
                "graph": graph,
                **{f"ms, {name}": 1e3 * median(some).cpu for name, some in spent.items()},
                "ratio": statistics.median(b.cpu / a.cpu for a, b in pairs),
            }


def _asked(call: Callable[..., Any], inputs: Mapping[str, np.ndarray], _: int) -> None:
    call(**inputs)


def with_tables(model: onnx.ModelProto, times: list[float]) -> onnx.ModelProto:
    """Return the model with what depends on t alone as rows of tables, one row for each
    of `times`.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    ends, rows = _of_time_alone(model, times)
    held = {
        "table.axis": np.array([1]),
        "table.times": np.asarray(times, np.float32)[None],
        **{f"table.{k}": v for k, v in enumerate(rows)},
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in held.items())
    nodes = [
        helper.make_node("Unsqueeze", ["t", "table.axis"], ["table.t"]),
        helper.make_node("Equal", ["table.t", "table.times"], ["table.equal"]),
        helper.make_node("Cast", ["table.equal"], ["table.hot"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["table.hot"], ["table.place"], axis=1, keepdims=0),
        *(
            helper.make_node("Gather", [f"table.{k}", "table.place"], [t], axis=0)
            for k, t in enumerate(ends)
        ),
        *(n for n in graph.node if not set(n.output) & set(ends)),
    ]
    kept = list(_used(nodes, {v.name for v in graph.output}))[::-1]
    read = {t for n in kept for t in n.input}
    left = [t for t in graph.initializer if t.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(left)
    onnx.checker.check_model(out, full_check=True)
    return out


def _of_time_alone(
    model: onnx.ModelProto, times: list[float]
) -> tuple[list[str], list[np.ndarray]]:
    """Return the tensors that depend on t alone and are read by others, and their values at
    `times`.
    """
    known = {
        v.name: v.type.tensor_type
        for v in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    constants, alone = {t.name for t in model.graph.initializer}, {"t"}
    for node in model.graph.node:
        inputs = [t for t in node.input if t and t not in constants]
        if not inputs:
            constants.update(node.output)
        elif alone.issuperset(inputs):
            alone.update(node.output)
    ends = list(
        dict.fromkeys(
            t
            for node in model.graph.node
            if node.output[0] not in alone
            for t in node.input
            if t in alone
            and t in known
            and known[t].elem_type == TensorProto.FLOAT
            and len(known[t].shape.dim) > 1
        )
    )
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:], part.graph.input[:]
    part.graph.input.extend(v for v in model.graph.input if v.name == "t")
    part.graph.output.extend(
        helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in ends
    )
    part.graph.node.extend(n for n in model.graph.node if n.output[0] in alone | constants)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return ends, session.run(None, {"t": np.asarray(times, np.float32)})


def _used(nodes: list[onnx.NodeProto], wanted: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that `wanted` needs, from the last to the first."""
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted.update(node.input)
            yield node


def products(name: str) -> Iterator[Row]:
    """Count the multiplications for an image, in millions: of convolutions, of constant matrices,
    and of attention's own products.
    """
    for graph, model in fp32_models(load_generator(name)).items():
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 1
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        shapes = {
            v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
            for v in [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
        }
        weights = {t.name: list(t.dims) for t in model.graph.initializer}
        count = dict.fromkeys(("convolutions", "constant matrices", "products of activations"), 0)
        for node in model.graph.node:
            if node.op_type == "Conv":
                count["convolutions"] += math.prod(shapes[node.output[0]]) * math.prod(
                    weights[node.input[1]][1:]
                )
            elif node.op_type in ("Gemm", "MatMul"):
                is_constant = node.input[1] in weights
                count["constant matrices" if is_constant else "products of activations"] += (
                    math.prod(shapes[node.output[0]])
                    * (shapes.get(node.input[0]) or weights[node.input[0]])[-1]
                )
        yield {"graph": graph, **{f"{what}, 10^6": n / 1e6 for what, n in count.items()}}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=("images", "tables", "products"))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument(
        "--variants", default="*", help="glob; the first, what export does, is always there"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.names:
        if given.what == "images":
            rows = images(name, given.pairs, given.variants)
            seeds, about = f"from {FRESH:,} on; calibration from 0 on", {"pairs": given.pairs}
        else:
            rows = (tables if given.what == "tables" else products)(name)
            seeds, about = "from 0 on" if given.what == "tables" else "none: counted", {}
        part = Part(followed(rows), seeds, 1, about)
        report(given.json, "rewrites", f"{given.what}, {Path(name).name}", part)


if __name__ == "__main__":
    main()
