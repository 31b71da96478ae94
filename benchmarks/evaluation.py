"""What a verdict costs is measured: workers against threads inside a session, who stands in for
TensorRT, and the stages of an export.

    python -m benchmarks evaluation verdict BUNDLE [--runtime openvino] [--pairs 256] [--rounds 3]
        seconds for 4,000 pairs with one worker, two workers, and two threads in each session
    python -m benchmarks evaluation stand-ins BUNDLE [--runtime tensorrt-rtx] [--rounds 9]
        milliseconds a call of each graph's Q/DQ file on each runtime, and dB between them
    python -m benchmarks evaluation export NAME [--runtimes onnxruntime,openvino,tensorrt-rtx]
        where the time of an export goes, stage by stage; nothing is kept of earlier searches

All ways are interleaved in one run, and the figures are medians; wall time says what a user waits,
CPU time what a machine gives for it.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import in_turns, median
from _result import Part, Row, arguments_of, report
from _spinning import Spinning

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
from edgegen.workflows.context import cores
from edgegen.workflows.export.run import ExportSettings, export_bundle
from edgegen.workflows.fast_features import fast_features

VERDICT = 4000  # pairs for which the seconds are given
FRESH = BENCHMARKS.take(100_000, 800_000)
EQUAL_DB = 200.0  # stands for infinity, the value of equal outputs


class ThreadedFeatures:
    """Run the feature network with torch's threads in each operator."""

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
    """Describe one way to make a verdict's images and features."""

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


def verdict(given: argparse.Namespace) -> Part:
    bundle, target = Bundle.open(Path(given.source)), given.runtime or "openvino"
    stored = reference.read(bundle.path("evidence/reference.safetensors"))
    network = feature_network(stored.network, None, stored.size)
    pairs, rounds = given.pairs, given.rounds or 3
    torch.set_num_threads(1)

    def judge(way: Way, turn: int) -> None:
        side = FullSide(way.full, way.features, stored, FRESH[turn * pairs], way.workers)
        for made in paired(side, way.int8, 0, pairs):
            assert made.features is not None
            stored.project(made.features)

    calls = {way.name: partial(judge, way) for way in ways(bundle, target, network)}
    rows = []
    for name, spent in in_turns(calls, rounds).items():
        middle = median(spent)
        rows.append(
            {
                "way": name,
                f"wall s, {VERDICT:,} pairs": VERDICT / pairs * middle.wall,
                "CPU s": VERDICT / pairs * middle.cpu,
            }
        )
    about = {"bundle": given.source, "runtime": target, "pairs": pairs, "rounds": rounds}
    return Part(rows, f"from {FRESH[0]:,} on", 2, about)


def stand_ins(given: argparse.Namespace) -> Part:
    bundle, target = Bundle.open(Path(given.source)), given.runtime or "tensorrt-rtx"
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    calls = bench.middle(bench.record(full, range(given.batch)))
    rounds, rows = given.rounds or 9, list[Row]()
    for graph, file in bundle.sources(runtime(target), "int8").items():
        sessions: dict[str, Session] = {
            "onnxruntime, float, as it stands in": FloatOnnxRuntime().session(file, 1),
            "onnxruntime, as any file": OnnxRuntime().session(file, 1),
            "openvino, as unsigned": UnsignedOpenVino().session(file, 1),
            "FP32 on onnxruntime": full.call[graph],
        }
        (inputs,) = calls[graph]
        first = sessions["onnxruntime, float, as it stands in"](**inputs)

        def ask(session: Session, _: int, inputs: Mapping[str, Array] = inputs) -> None:
            session(**inputs)

        asked = {name: partial(ask, session) for name, session in sessions.items()}
        for name, spent in in_turns(asked, rounds, warm_up=1).items():
            rows.append(
                {
                    "graph": graph,
                    "on": name,
                    "CPU ms a call": 1e3 * median(spent).cpu,
                    "dB to the first": min(decibel(first, sessions[name](**inputs)), EQUAL_DB),
                }
            )
    about = {
        "bundle": given.source,
        "runtime": target,
        "batch": given.batch,
        "rounds": rounds,
        "OpenVINO is exact on this processor": is_exact(UnsignedOpenVino),
    }
    return Part(rows, "from 0 on", 1, about)


def decibel(signal: Array, other: Array) -> float:
    """Return signal over error in dB; infinite for equal outputs."""
    error = float(np.square(signal.astype(np.float64) - other).mean())
    power = float(np.square(signal.astype(np.float64)).mean())
    return 10 * math.log10(power / error) if error else math.inf


class Stages:
    """Record wall and CPU seconds of each stage that an export reports."""

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


def export(given: argparse.Namespace) -> Part:
    stages, wall, cpu = Stages(), time.perf_counter(), time.process_time()
    settings = ExportSettings(tuple(given.runtimes.split(",")), threads=given.threads)
    with tempfile.TemporaryDirectory(prefix="edgegen-benchmark-") as folder:
        os.environ["EDGEGEN_CACHE"] = f"{folder}/cache"
        try:
            export_bundle(given.source, f"{folder}/bundle", settings, stages)
        except GateFailed as error:
            print(error)
    whole = time.perf_counter() - wall, time.process_time() - cpu
    rows = [
        {"stage": label, "wall s": seconds, "CPU s": used}
        for label, (seconds, used) in [*stages.spent.items(), ("all", whole)]
    ]
    about = {"source": given.source, "runtimes": given.runtimes}
    return Part(rows, "the export's own", given.threads or cores(), about)


PARTS = {"verdict": verdict, "stand-ins": stand_ins, "export": export}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("source", help="a bundle; of export: a zoo name, a run or a folder")
    parser.add_argument("--runtime", help="openvino for verdict, tensorrt-rtx for stand-ins")
    parser.add_argument("--pairs", type=int, default=256, help="of a verdict's round")
    parser.add_argument("--batch", type=int, default=32, help="of a stand-in's call")
    parser.add_argument("--rounds", type=int, help="3 for verdict, 9 for stand-ins unless told")
    parser.add_argument(
        "--runtimes", default="onnxruntime,openvino,tensorrt-rtx", help="of an export"
    )
    parser.add_argument("--threads", type=int, default=0, help="of an export; 0: all cores")
    given = parser.parse_args()
    report(given.json, "evaluation", given.what, PARTS[given.what](given))


if __name__ == "__main__":
    main()
