"""Goals of the runtimes, measured: the same numbers everywhere, a cold start, and engines built
without a GPU.

    python benchmarks/runtimes.py parity [NAME ...]
        FP32 of each zoo graph on each runtime against torch
    python benchmarks/runtimes.py int8 BUNDLE ...          # the same Q/DQ file on each runtime
    python benchmarks/runtimes.py pixels BUNDLE ...
        OpenVINO with and without vectors computed as pixels (decision 13)
    python benchmarks/runtimes.py cold BUNDLE
        a device's first image, in a process of its own
    python benchmarks/runtimes.py engines [NAME ...]
        TensorRT-RTX: seconds, memory and megabytes of each zoo graph

Each prints rows of a Markdown table. Seeds from 4,000,000 on; one thread.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np

from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.core.images import to_uint8
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Pipeline, Session
from edgegen.core.seeds import BENCHMARKS
from edgegen.evidence import bench, parity
from edgegen.export import runtime
from edgegen.export.ort import OnnxRuntime
from edgegen.export.ov import OpenVino

SEEDS = BENCHMARKS.take(32)
RUNTIMES = ("onnxruntime", "openvino")  # that execute on a machine without a GPU
ZOO = ("isc-gan", "cas-dm", "dkgm", "lcd")
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120")


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def fp32(names: Sequence[str]) -> None:
    """Largest absolute difference to torch over 8 seeds at every step of the trajectory, and pixels
    of 32 seeds.
    """
    from edgegen.export.onnx import to_onnx
    from edgegen.workflows.export.hosted import hosted
    from edgegen.workflows.generators import load_generator, torch_pipeline

    row(
        "graph",
        "runtime",
        "largest difference (goal 1e-4)",
        "pixels within 1/255 (goal 99.9 %)",
        "",
    )
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
                met = worst <= parity.FP32_LIMIT and pixels >= parity.PIXEL_LIMIT
                row(
                    f"{name}/{graph}",
                    f"{target.name} {target.version()}",
                    f"{worst:.1e}",
                    f"{pixels:.3%}",
                    verdict(met),
                )


class _Built(OpenVino):
    """Loads ONNX through what ships."""

    def load(self, built: Path, threads: int) -> Session:
        with tempfile.TemporaryDirectory() as folder:
            return super().load(self.build(built, Path(folder))[0], threads)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of images in [-1, 1]; 200 for equal ones."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return 10 * np.log10(4 / error) if error > 4e-20 else 200.0


def int8(bundles: Sequence[str]) -> None:
    """The Q/DQ files of each runtime, executed by both: they should be nearer to one another than
    to full precision.
    """
    row("bundle", "Q/DQ of", *(f"{name} to FP32" for name in RUNTIMES), "between them", "")
    for folder in bundles:
        bundle = Bundle.open(Path(folder))
        full = bundle.pipeline(runtime("onnxruntime"), "fp32")
        exact = full(SEEDS)
        for name in bundle.manifest.runtimes:
            files = bundle.sources(runtime(name), "int8")
            sides = [_executed(full, files, target)(SEEDS) for target in RUNTIMES]
            found = [psnr(side, exact) for side in sides]
            between = psnr(*sides)
            row(
                bundle.manifest.source["name"],
                name,
                *(f"{v:.1f} dB" for v in found),
                f"{between:.1f} dB",
                verdict(between >= max(found)),
            )


def _executed(full: Pipeline, files: Mapping[str, GraphFile], name: str) -> Pipeline:
    target = runtime(name)
    call = {graph: target.session(file, 1) for graph, file in files.items()}
    return Pipeline(full.latent, full.sampler, call, full.batch)


def pixels(bundles: Sequence[str]) -> None:
    """CPU ms of one sampler step, batch 8, interleaved medians: OpenVINO as it is loaded here, and
    as it would be.
    """
    row("bundle", "precision", "vectors stay, ms", "vectors as pixels, ms", "")
    for folder in bundles:
        bundle = Bundle.open(Path(folder))
        for precision in ("fp32", "int8"):
            with patch("edgegen.export.ov.vectors_as_pixels"):
                stay = bundle.pipeline(runtime("openvino"), precision)
            both = {"stay": stay, "pixels": bundle.pipeline(runtime("openvino"), precision)}
            inputs = bench.middle(bench.record(stay, SEEDS[:8]))
            found = bench.latencies(both, inputs, 1)
            before, after = (found[k].cpu_ms for k in both)
            row(
                bundle.manifest.source["name"],
                precision,
                f"{before:.2f}",
                f"{after:.2f}",
                f"{before / after:.2f} x",
            )


COLD = """
import sys, time
start, cpu = time.perf_counter(), time.process_time()
sys.path[:0] = {path!r}
from edgegen.cli.main import run
code = run(["generate", {bundle!r}, "--runtime", {runtime!r}, "-n", "1", "-o", {out!r}, *{more!r}])
print(time.perf_counter() - start, time.process_time() - cpu, file=sys.stderr)
sys.exit(code)
"""


def cold(bundle: str, rounds: int = 7) -> None:
    """Import and first image, in a cold process on a warm disk; and what of it edgegen's own
    modules take to import.
    """
    row("what", "wall s, median (least)", "CPU s, median (least)", "goal", "")
    with tempfile.TemporaryDirectory() as folder:
        for name in (
            n
            for n in Bundle.open(Path(bundle)).manifest.runtimes
            if runtime(n).cannot_run() is None
        ):
            for precision in ("fp32", "int8"):
                more = ["--precision", precision]
                times = [
                    _child(
                        COLD.format(
                            path=[str(Path(__file__).parents[1])],
                            bundle=bundle,
                            runtime=name,
                            more=more,
                            out=str(Path(folder) / "x.png"),
                        )
                    )
                    for _ in range(rounds)
                ]
                lines = [t.strip().splitlines()[-1].split() for t in times]
                wall, cpu = ([float(line[k]) for line in lines] for k in (0, 1))
                row(
                    f"first image, {name} {precision}",
                    f"{statistics.median(wall):.2f} ({min(wall):.2f})",
                    f"{statistics.median(cpu):.2f} ({min(cpu):.2f})",
                    "1.5 s",
                    verdict(statistics.median(cpu) <= 1.5),
                )
        code = COLD.format(
            path=[str(Path(__file__).parents[1])],
            bundle=bundle,
            runtime="onnxruntime",
            more=[],
            out=str(Path(folder) / "x.png"),
        )
        modules = (
            _child(code.replace("sys.exit(code)", "print(*sys.modules, file=sys.stderr)"))
            .strip()
            .splitlines()[-1]
            .split()
        )
        own = [_own_import(modules) for _ in range(rounds)]
        row(
            "of it, edgegen's own import",
            "",
            f"{statistics.median(own):.3f} ({min(own):.3f})",
            "0.25 s",
            verdict(statistics.median(own) <= 0.25),
        )


def _child(code: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stderr


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
print(time.process_time() - start, file=sys.stderr)
"""


def _own_import(modules: Sequence[str]) -> float:
    """CPU seconds that edgegen's own modules take to import when all that they import is there."""
    own = [m for m in modules if m.partition(".")[0] == "edgegen"]
    others = [m for m in modules if m.partition(".")[0] not in ("edgegen", "__main__")]
    return float(
        _child(OWN.format(path=[str(Path(__file__).parents[1])], others=others, own=own))
        .strip()
        .splitlines()[-1]
    )


def engines(names: Sequence[str]) -> None:
    """Ahead of time, for each compute capability, FP32, FP16 and INT8 (every convolution; ranges do
    not change what is built).
    """
    from edgegen.export import qdq
    from edgegen.export.onnx import to_onnx, write
    from edgegen.workflows.generators import load_generator

    print(f"Longest of {', '.join(CAPABILITIES)}, one engine a process.")
    row(
        "graph",
        "precision",
        "CPU s",
        "wall s",
        "peak MB",
        "engine MB",
        "ONNX MB",
        "goal 30 s, 1 GB",
    )
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
                    cpu, wall, peak, size = _engines(path)
                    row(
                        f"{name}/{graph}",
                        precision,
                        f"{cpu:.1f}",
                        f"{wall:.1f}",
                        f"{peak:.0f}",
                        f"{size / 1e6:.1f}",
                        f"{path.stat().st_size / 1e6:.1f}",
                        verdict(wall <= 30 and peak <= 1000),
                    )


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
print(json.dumps([cpu, wall, used.ru_maxrss / 1024, size]), file=sys.stderr)
"""


def _engines(path: Path) -> tuple[float, float, float, int]:
    """Most seconds of CPU and of wall for one engine, peak memory in MB of the process that builds,
    bytes of the largest.
    """
    said = _child(
        ENGINE.format(
            path=[str(Path(__file__).parents[1])], file=str(path), capabilities=CAPABILITIES
        )
    )
    cpu, wall, peak, size = json.loads(said.strip().splitlines()[-1])
    return cpu, wall, peak, size


STAGES: dict[str, Callable[[Sequence[str]], None]] = {
    "parity": fp32,
    "int8": int8,
    "pixels": pixels,
    "cold": lambda given: cold(given[0]),
    "engines": engines,
}

if __name__ == "__main__":
    start = time.monotonic()
    STAGES[sys.argv[1]](sys.argv[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{time.monotonic() - start:.0f} s, {peak:.0f} MB", file=sys.stderr)
