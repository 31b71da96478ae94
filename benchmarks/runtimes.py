"""The goals of the runtimes are measured: the same numbers everywhere, a cold start, and engines
built without a GPU.

    python -m benchmarks runtimes parity [NAME ...]
        FP32 of each zoo graph on each runtime against torch
    python -m benchmarks runtimes int8 BUNDLE ...           # the same Q/DQ file on each runtime
    python -m benchmarks runtimes pixels BUNDLE ...
        OpenVINO with and without vectors computed as pixels (decision 13)
    python -m benchmarks runtimes cold BUNDLE
        a device's first image, in a process of its own
    python -m benchmarks runtimes engines [NAME ...]
        TensorRT-RTX: seconds, memory and megabytes of each zoo graph

Seeds are from 4,000,000 on; everything takes one thread. The goals: FP32 is within 1e-4 of torch,
and 99.9 % of its pixels within 1/255; runtimes are nearer to one another than to FP32; a first
image takes 1.5 s of CPU time, 0.25 s of it edgegen's own import; an engine takes 30 s and 1 GB.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from _measure import said_by
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.core.images import to_uint8
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Pipeline, Session
from edgegen.core.seeds import BENCHMARKS
from edgegen.evidence import bench, parity
from edgegen.evidence.distances import PairedPsnr, squared_error
from edgegen.export import qdq, runtime
from edgegen.export.onnx import to_onnx, write
from edgegen.export.ort import OnnxRuntime
from edgegen.export.ov import OpenVino
from edgegen.machine.resident import peak_bytes
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.generators import load_generator, torch_pipeline

SEEDS = BENCHMARKS.take(32)
RUNTIMES = ("onnxruntime", "openvino")  # runtimes that execute without a GPU
ZOO = ("isc-gan", "cas-dm", "dkgm", "lcd")
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120")
ROUNDS = 7  # number of cold starts
ROOT = Path(__file__).parents[1]


def fp32(names: Sequence[str]) -> Iterator[Row]:
    """Measure the largest absolute difference to torch over 8 seeds at every step of the
    trajectory, and the pixels of 32 seeds.
    """
    for name in names or ZOO:
        generator = load_generator(name).generator
        models = {k: to_onnx(g, k) for k, g in generator.graphs().items()}
        pipeline = torch_pipeline(generator)
        calls = bench.record(pipeline, SEEDS[:8])
        wanted = to_uint8(pipeline(SEEDS))
        for target in (OnnxRuntime(), _Built()):
            made = hosted(models, generator, 1, target)
            pixels = parity.same_pixels(wanted, to_uint8(made(SEEDS)))
            for graph, inputs in calls.items():
                worst = parity.largest_difference(made.call[graph], pipeline.call[graph], inputs)
                yield {
                    "graph": f"{name}/{graph}",
                    "runtime": f"{target.name} {target.version()}",
                    "largest difference": worst,
                    "pixels within 1/255": pixels,
                    "met": worst <= parity.FP32_LIMIT and pixels >= parity.PIXEL_LIMIT,
                }


class _Built(OpenVino):
    """Load ONNX through the format that ships."""

    def load(self, built: Path, threads: int) -> Session:
        with tempfile.TemporaryDirectory() as folder:
            return super().load(self.build(built, Path(folder))[0], threads)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR of images in [-1, 1]; 200 for equal ones."""
    return min(PairedPsnr.of(squared_error(a, b)).pooled_db, 200.0)


def int8(bundles: Sequence[str]) -> Iterator[Row]:
    """Execute the Q/DQ files of each runtime by both runtimes, whose images should be closer to one
    another than to full precision.
    """
    for folder in bundles:
        bundle = Bundle.open(Path(folder))
        full = bundle.pipeline(runtime("onnxruntime"), "fp32")
        exact = full(SEEDS)
        for name in bundle.manifest.runtimes:
            files = bundle.sources(runtime(name), "int8")
            sides = {target: _executed(full, files, target)(SEEDS) for target in RUNTIMES}
            found = {target: psnr(side, exact) for target, side in sides.items()}
            between = psnr(*sides.values())
            yield {
                "bundle": bundle.manifest.source["name"],
                "Q/DQ of": name,
                **{f"{target} to FP32, dB": value for target, value in found.items()},
                "between them, dB": between,
                "met": between >= max(found.values()),
            }


def _executed(full: Pipeline, files: Mapping[str, GraphFile], name: str) -> Pipeline:
    target = runtime(name)
    call = {graph: target.session(file, 1) for graph, file in files.items()}
    return Pipeline(full.latent, full.sampler, call, full.batch)


def pixels(bundles: Sequence[str]) -> Iterator[Row]:
    """Measure the CPU ms of one sampler step, batch 8, interleaved medians: OpenVINO as edgegen
    loads it, and without vectors computed as pixels.
    """
    for folder in bundles:
        bundle = Bundle.open(Path(folder))
        for precision in ("fp32", "int8"):
            with patch("edgegen.export.ov.vectors_as_pixels"):
                stay = bundle.pipeline(runtime("openvino"), precision)
            both = {"stay": stay, "pixels": bundle.pipeline(runtime("openvino"), precision)}
            inputs = bench.middle(bench.record(stay, SEEDS[:8]))
            found = bench.latencies(both, inputs, 1)
            before, after = (found[k].cpu_ms for k in both)
            yield {
                "bundle": bundle.manifest.source["name"],
                "precision": precision,
                "vectors stay, ms": before,
                "vectors as pixels, ms": after,
                "times as fast": before / after,
            }


COLD = """
import sys, time
start, cpu = time.perf_counter(), time.process_time()
sys.path[:0] = {path!r}
from edgegen.cli.main import run
code = run(["generate", {bundle!r}, "--runtime", {runtime!r}, "-n", "1", "-o", {out!r}, *{more!r}])
print(time.perf_counter() - start, time.process_time() - cpu)
sys.exit(code)
"""
MODULES = COLD.replace("sys.exit(code)", "print(*sys.modules)")


def cold(bundles: Sequence[str]) -> Iterator[Row]:
    """Measure import and first image in a cold process on a warm disk, and the part of it in which
    edgegen's own modules are imported.
    """
    (bundle,) = bundles
    names = Bundle.open(Path(bundle)).manifest.runtimes
    with tempfile.TemporaryDirectory() as folder:
        place = {"path": [str(ROOT)], "bundle": bundle, "out": str(Path(folder) / "x.png")}
        for name in (n for n in names if runtime(n).cannot_run() is None):
            for precision in ("fp32", "int8"):
                code = COLD.format(**place, runtime=name, more=["--precision", precision])
                times = [_numbers(said_by("-c", code)) for _ in range(ROUNDS)]
                wall, cpu = zip(*times, strict=True)
                yield {
                    "what": f"first image, {name} {precision}",
                    "wall s": statistics.median(wall),
                    "least wall s": min(wall),
                    "CPU s": statistics.median(cpu),
                    "least CPU s": min(cpu),
                    "goal": 1.5,
                    "met": statistics.median(cpu) <= 1.5,
                }
        code = MODULES.format(**place, runtime="onnxruntime", more=[])
        modules = said_by("-c", code).split()
        own = [_own_import(modules) for _ in range(ROUNDS)]
        yield {
            "what": "of it, edgegen's own import",
            "CPU s": statistics.median(own),
            "least CPU s": min(own),
            "goal": 0.25,
            "met": statistics.median(own) <= 0.25,
        }


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


OWN = """
import importlib, sys, time
sys.path[:0] = {path!r}
for name in {others!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
start = time.process_time()
for name in {own!r}:
    importlib.import_module(name)
print(time.process_time() - start)
"""


def _own_import(modules: Sequence[str]) -> float:
    """Return the CPU seconds that edgegen's own modules take to import once everything that they
    import is loaded.
    """
    own = [m for m in modules if m.partition(".")[0] == "edgegen"]
    others = [m for m in modules if m.partition(".")[0] not in ("edgegen", "__main__")]
    return float(said_by("-c", OWN.format(path=[str(ROOT)], others=others, own=own)))


def engines(names: Sequence[str]) -> Iterator[Row]:
    """Build ahead of time for each compute capability, in FP32, FP16 and INT8 (every convolution;
    ranges do not change what is built).

    There is one engine for each process; the slowest of all capabilities counts.
    """
    for name in names or ZOO:
        for graph, value in load_generator(name).generator.graphs().items():
            model = to_onnx(value, graph)
            ranges = {graph: {t: Range(-8.0, 8.0) for t in qdq.candidates(model)}}
            dialect = runtime("tensorrt-rtx").dialect
            files = {
                "FP32": model,
                "FP16": qdq.quantize(model, graph, Plan((), ranges), dialect),
                "INT8": qdq.quantize(model, graph, Plan((("*", "int8"),), ranges), dialect),
            }
            for precision, made in files.items():
                with tempfile.TemporaryDirectory() as folder:
                    path = write(made, Path(folder) / "g.onnx")
                    yield {"graph": f"{name}/{graph}", "precision": precision, **_built(path)}


ENGINE = """
import json, resource, sys, time
sys.path[:0] = {path!r}
import onnx
from edgegen.export.engine import engines
from edgegen.export.turing import without_products
data, wall, cpu, size, before = open({file!r}, "rb").read(), 0.0, 0.0, 0, 0.0
turing = without_products(onnx.load_from_string(data)).SerializeToString()
for capability in {capabilities!r}:
    start = time.perf_counter()
    made = engines("tensorrt_rtx", turing if capability == "SM75" else data, (capability,))
    wall = max(wall, time.perf_counter() - start)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, before = max(cpu, used.ru_utime + used.ru_stime - before), used.ru_utime + used.ru_stime
    if isinstance(made, tuple):
        sys.exit(made[1])
    size = max(size, len(made[0]))
print(json.dumps([cpu, wall, used.ru_maxrss / 1024, size]))
"""


def _built(path: Path) -> Row:
    """Return the most seconds of CPU and of wall for one engine, the peak memory in MB of the
    building process, and the megabytes of the largest engine.
    """
    code = ENGINE.format(path=[str(ROOT)], file=str(path), capabilities=CAPABILITIES)
    cpu, wall, peak, size = json.loads(said_by("-c", code))
    return {
        "CPU s": cpu,
        "wall s": wall,
        "peak MB": peak,
        "engine MB": size / 1e6,
        "ONNX MB": path.stat().st_size / 1e6,
        "met": wall <= 30 and peak <= 1000,
    }


PARTS: Mapping[str, Callable[[Sequence[str]], Iterator[Row]]] = {
    "parity": fp32,
    "int8": int8,
    "pixels": pixels,
    "cold": cold,
    "engines": engines,
}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("names", nargs="*", help="zoo names or bundles")
    given = parser.parse_args()
    start = time.monotonic()
    rows = followed(PARTS[given.what](given.names))
    about = {"s in all": time.monotonic() - start, "peak MB": peak_bytes() / 1e6}
    report(given.json, "runtimes", given.what, Part(rows, f"from {SEEDS[0]:,} on", 1, about))


if __name__ == "__main__":
    main()
