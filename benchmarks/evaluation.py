"""What a verdict costs: workers against threads inside a session, and who stands in for TensorRT.

    python benchmarks/evaluation.py verdict BUNDLE [--runtime openvino] [--pairs 256] [--rounds 3]
        seconds for 4,000 pairs with one worker, two workers, and two threads in each session
    python benchmarks/evaluation.py stand-ins BUNDLE [--runtime tensorrt-rtx] [--rounds 9]
        milliseconds a call of each graph's Q/DQ file on each runtime, and dB between them
    python benchmarks/evaluation.py export NAME [--runtimes onnxruntime,openvino,tensorrt-rtx]
        where the time of an export goes, stage by stage; nothing is kept of earlier searches

Each prints rows of a Markdown table. All ways are interleaved in one run, and medians are printed;
wall time says what a user waits, CPU time what a machine gives for it.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from edgegen.core.bundle import Bundle
from edgegen.core.progress import Advance
from edgegen.core.runtime import Pipeline, Session
from edgegen.core.seeds import BENCHMARKS
from edgegen.core.spec import Array
from edgegen.errors import GateFailed
from edgegen.evidence import bench, reference
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.full_side import FullSide, paired
from edgegen.evidence.pixels import resize
from edgegen.export import runtime
from edgegen.export.ort import OnnxRuntime
from edgegen.export.stand_ins import FloatOnnxRuntime, UnsignedOpenVino, is_exact
from edgegen.workflows.export.run import ExportSettings, export_bundle
from edgegen.workflows.fast_features import fast_features

VERDICT = 4000  # pairs that seconds are given for
FRESH = BENCHMARKS.take(100_000, 800_000)


class Spinning(OnnxRuntime):
    """Its threads wait for work without giving up the processor, as ONNX Runtime has it."""

    settings: ClassVar[Mapping[str, str]] = {
        **OnnxRuntime.settings,
        "session.intra_op.allow_spinning": "1",
    }


class ThreadedFeatures:
    """The feature network with torch's threads in each operator."""

    def __init__(self, network: FeatureNetwork, threads: int) -> None:
        self.network, self.threads = network, threads
        self.name, self.sha256 = network.name, network.sha256
        self.size, self.dim = network.size, network.dim

    def __call__(self, images: np.ndarray) -> Array:
        torch.set_num_threads(self.threads)
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), self.network.batch):
                part = torch.from_numpy(images[start : start + self.network.batch])
                x = resize(part.permute(0, 3, 1, 2).float(), self.network.size)
                found.append(self.network.forward(x).numpy())
        torch.set_num_threads(1)
        return np.concatenate(found)


@dataclass(frozen=True)
class Way:
    """One way to make a verdict's images and features."""

    name: str
    full: Pipeline
    int8: Pipeline
    features: Any
    workers: int


def ways(bundle: Bundle, name: str, network: FeatureNetwork) -> list[Way]:
    host, target = runtime("onnxruntime"), runtime(name)
    full, int8 = bundle.pipeline(host, "fp32", 1), bundle.pipeline(target, "int8", 1)
    fast = fast_features(network)
    spinning = Spinning() if target.name == host.name else target
    return [
        Way("1 worker", full, int8, fast, 1),
        Way("2 workers", full, int8, fast, 2),
        Way(
            "2 threads in each session, features by torch",
            bundle.pipeline(Spinning(), "fp32", 2),
            bundle.pipeline(spinning, "int8", 2),
            ThreadedFeatures(network, 2),
            1,
        ),
    ]


def verdict(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle)
    stored = reference.read(bundle.path("evidence/reference.safetensors"))
    network = feature_network(stored.network, None, stored.size)
    pairs = args.pairs
    candidates = ways(bundle, args.runtime, network)
    spent: dict[str, list[tuple[float, float]]] = {way.name: [] for way in candidates}
    torch.set_num_threads(1)
    for turn in range(args.rounds):
        for way in candidates:
            side = FullSide(way.full, way.features, stored, FRESH[turn * pairs], way.workers)
            wall, cpu = time.perf_counter(), time.process_time()
            for made in paired(side, way.int8, 0, pairs):
                assert made.features is not None
                stored.project(made.features)
            spent[way.name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"| {args.runtime}, {pairs} pairs, median of {args.rounds} | wall, 4,000 pairs | CPU |")
    print("|---|---|---|")
    for name, times in spent.items():
        wall, cpu = (VERDICT / pairs * statistics.median(t) for t in zip(*times, strict=True))
        print(f"| {name} | {wall:.0f} s | {cpu:.0f} s |")


def stand_ins(args: argparse.Namespace) -> None:
    bundle = Bundle.open(args.bundle)
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    calls = bench.middle(bench.record(full, range(args.batch)))
    files = bundle.sources(runtime(args.runtime), "int8")
    print(f"OpenVINO is {'' if is_exact(UnsignedOpenVino) else 'not '}exact on this processor")
    print(f"| {args.runtime}, batch {args.batch}, 1 thread | CPU ms a call | dB to the first |")
    print("|---|---|---|")
    for graph, file in files.items():
        sessions: dict[str, Session] = {
            "onnxruntime, float, as it stands in": FloatOnnxRuntime().session(file, 1),
            "onnxruntime, as any file": OnnxRuntime().session(file, 1),
            "openvino, as unsigned": UnsignedOpenVino().session(file, 1),
            "FP32 on onnxruntime": full.call[graph],
        }
        (inputs,) = calls[graph]
        first = sessions["onnxruntime, float, as it stands in"](**inputs)
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(args.rounds + 1):
            for name, session in sessions.items():
                start = time.process_time()
                session(**inputs)
                times[name].append(1e3 * (time.process_time() - start))
        for name, session in sessions.items():
            print(
                f"| {graph} {name} | {statistics.median(times[name][1:]):.1f} | "
                f"{decibel(first, session(**inputs)):.1f} |"
            )


def decibel(signal: Array, other: Array) -> float:
    """Infinite for equal outputs."""
    error = float(np.square(signal.astype(np.float64) - other).mean())
    power = float(np.square(signal.astype(np.float64)).mean())
    return 10 * math.log10(power / error) if error else math.inf


class Stages:
    """Wall and CPU seconds of each stage that an export reports."""

    def __init__(self) -> None:
        self.spent: dict[str, tuple[float, float]] = {}

    def note(self, text: str) -> None:
        print(text, flush=True)

    @contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield lambda _: None
        finally:
            before = self.spent.get(label, (0.0, 0.0))
            now = time.perf_counter() - wall, time.process_time() - cpu
            self.spent[label] = before[0] + now[0], before[1] + now[1]


def export(args: argparse.Namespace) -> None:
    stages, wall, cpu = Stages(), time.perf_counter(), time.process_time()
    settings = ExportSettings(tuple(args.runtimes.split(",")), threads=args.threads)
    with tempfile.TemporaryDirectory(prefix="edgegen-benchmark-") as folder:
        os.environ["EDGEGEN_CACHE"] = f"{folder}/cache"
        try:
            export_bundle(args.name, f"{folder}/bundle", settings, stages)
        except GateFailed as error:
            print(error)
    whole = time.perf_counter() - wall, time.process_time() - cpu
    print("| stage | wall | CPU |")
    print("|---|---|---|")
    for label, (seconds, used) in [*stages.spent.items(), ("all", whole)]:
        print(f"| {label} | {seconds:.0f} s | {used:.0f} s |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("verdict")
    verb.add_argument("bundle", type=Path)
    verb.add_argument("--runtime", default="openvino")
    verb.add_argument("--pairs", type=int, default=256)
    verb.add_argument("--rounds", type=int, default=3)
    verb.set_defaults(run=verdict)
    verb = verbs.add_parser("stand-ins")
    verb.add_argument("bundle", type=Path)
    verb.add_argument("--runtime", default="tensorrt-rtx")
    verb.add_argument("--batch", type=int, default=32)
    verb.add_argument("--rounds", type=int, default=9)
    verb.set_defaults(run=stand_ins)
    verb = verbs.add_parser("export")
    verb.add_argument("name")
    verb.add_argument("--runtimes", default="onnxruntime,openvino,tensorrt-rtx")
    verb.add_argument("--threads", type=int, default=0)
    verb.set_defaults(run=export)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
