"""The main job is measured against its goals, in one run on an otherwise idle machine.

    make data && python -m benchmarks main_job
        about 25 minutes on 2 cores; --quick leaves the 10k FD out

Data: Fashion-MNIST test split (10,000 images). Features: EfficientNet-Lite0 at 128 px. Evidence
seeds from 1,000,000; calibration seeds from 0. Each row names its n and threads.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from _measure import in_turns, median, said_by
from _pictures import blurred
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.bundle import Bundle
from edgegen.core.images import to_uint8
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence import reference
from edgegen.evidence.compare import compare
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.looks import LookSchedule
from edgegen.export import runtime
from edgegen.machine.resident import peak_bytes
from edgegen.training.data import load
from edgegen.workflows.context import Context, cores
from edgegen.workflows.export.calibration import calibrated
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.generators import load_generator

SAMPLES, PAIRS = 10_000, 2_000


def row(what: str, goal: str, found: str, is_met: bool) -> Row:
    return {"what": what, "goal": goal, "found": found, "met": is_met}


def out_of_focus(images: np.ndarray) -> np.ndarray:
    """Blur with a Gaussian of sigma 1 at 28 px, as the goal was measured: the padding of 2 stays
    black.
    """
    return np.pad(blurred(images[:, 2:30, 2:30], 1), ((0, 0), (2, 2), (2, 2), (0, 0)))


def zoo_distance(bundle: Bundle, data: Path, threads: int) -> Row:
    network = feature_network("efficientnet-lite0")
    test = load(data, 32, split="test")[0].pixels
    real = Moments.of(network(test))
    blur = frechet(real, Moments.of(network(out_of_focus(test))))
    pipeline = bundle.pipeline(runtime("openvino"), "fp32", threads)
    found = frechet(real, Moments.of(network(to_uint8(pipeline(EVIDENCE.take(SAMPLES))))))
    return row(
        "FD of the zoo checkpoint, EfficientNet-Lite0 at 128 px, all 1280 features, 10k samples "
        "against 10k test images",
        f"<= {blur:.0f} (blur sigma 1, this run)",
        f"{found:.1f}",
        found <= blur,
    )


def quality(bundle: Bundle, threads: int) -> Iterator[Row]:
    stored = reference.read(bundle.path("evidence/reference.safetensors"))
    network = feature_network(stored.network, None, stored.size)
    full = FullSide(bundle.pipeline(runtime("openvino"), "fp32", threads), network, stored)
    for name in ("onnxruntime", "openvino"):
        result = compare(
            full, bundle.pipeline(runtime(name), "int8", threads), 0.02, LookSchedule.once(PAIRS)
        )
        change = result.verdict.change
        yield row(
            f"INT8 FID change, {name}, n = {PAIRS} pairs, {stored.k} directions, FP32 FD "
            f"{result.distance_full.value:.1f}",
            "95 % interval inside +-2 %",
            f"{change.value:+.2%} ({change.low:+.2%} to {change.high:+.2%}); between the sets "
            f"{result.distance_between:.2f}",
            result.verdict.state == "within",
        )
        found = f"{result.psnr_db:.1f} dB pooled, {result.psnr_median_db:.1f} median"
        yield row(f"paired PSNR, {name}, n = {PAIRS}", ">= 35 dB", found, result.psnr_db >= 35)


def recorded(bundle: Bundle) -> Iterator[Row]:
    """Yield what the export itself measured and wrote into the manifest."""
    evidence = bundle.manifest.evidence
    worst = max(evidence["fp32_torch_max_abs"].values())
    yield row(
        "FP32 ONNX against torch, each graph, 70 inputs over all timesteps",
        "max abs <= 1e-4",
        f"{worst:.1e}",
        worst <= 1e-4,
    )
    share = evidence["fp32_same_pixels"]
    yield row(
        "same seeds, same images across FP32 runtimes, n = 32",
        ">= 99.9 % of pixels within 1/255",
        f"{share:.3%}",
        share >= 0.999,
    )
    goals = {"openvino": 2.4, "onnxruntime": 2.0}
    for name, goal in goals.items():
        speed = evidence["runtimes"][name]["speed"]
        what = (
            f"{name} INT8 against the fastest FP32 runtime ({evidence['baseline']}), mean "
            "step, "
            "batch 8, 1 thread CPU time"
        )
        yield row(what, f">= {goal} x", f"{speed:.2f} x", speed >= goal)
    size = max(r["size_ratio"] for r in evidence["runtimes"].values())
    yield row(
        "INT8 ONNX against FP32 ONNX, the largest of all dialects",
        "<= 0.30 x",
        f"{size:.3f} x",
        size <= 0.30,
    )


def engines(bundle: Bundle) -> Row:
    target = runtime("tensorrt-rtx")
    digests, slowest, count = [], 0.0, 0
    for _ in range(2):
        digest = hashlib.sha256()
        for name in bundle.manifest.runtimes[target.name].onnx.values():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                paths = target.build(bundle.path(name), Path(folder))
                slowest, count = (
                    max(slowest, (time.perf_counter() - start) / len(paths)),
                    count + len(paths),
                )
                for path in paths:
                    digest.update(path.read_bytes())
        digests.append(digest.hexdigest())
    same = digests[0] == digests[1]
    return row(
        f"RTX engines, {count // 2} of them built twice",
        "built, byte-deterministic, <= 30 s each",
        f"{'equal' if same else 'DIFFERENT'} bytes, {slowest:.1f} s",
        same and slowest <= 30,
    )


def memory() -> Row:
    """Measure the peak resident memory of a process that only calibrates."""
    few, many = (int(said_by(__file__, "--calibrate", str(count))) for count in (64, 1024))
    ratio = many / few
    return row(
        "peak memory of calibration, 1,024 against 64 samples",
        "within 5 %",
        f"{ratio:.3f} x ({few / 2**20:.0f} MB)",
        abs(ratio - 1) <= 0.05,
    )


def start_up() -> Iterator[Row]:
    commands = {
        "edgegen --help": ["-m", "edgegen", "--help"],
        "import edgegen": ["-c", "import edgegen"],
    }
    calls = {name: partial(started, command) for name, command in commands.items()}
    for name, spent in in_turns(calls, 7).items():
        wall = median(spent).wall
        yield row(f"{name}, wall, median of 7", "<= 0.3 s", f"{wall:.2f} s", wall <= 0.3)


def started(command: Sequence[str], _: int) -> None:
    subprocess.run([sys.executable, *command], capture_output=True, check=True)


def demo(out: Path) -> Row:
    """Run the demo as `make demo` does, into that folder."""
    start = time.perf_counter()
    command = ["export", "cas-dm", "--int8", "--runtime", "onnxruntime,openvino,tensorrt-rtx"]
    subprocess.run([sys.executable, "-m", "edgegen", *command, "-o", str(out)], check=True)
    spent = time.perf_counter() - start
    return row(
        f"whole `make demo` after installation, {cores()} cores",
        "<= 10 minutes",
        f"{spent / 60:.1f} minutes",
        spent <= 600,
    )


def goals(data: Path | None) -> Iterator[Row]:
    """Yield a row for each goal; the 10k FD is left out without data."""
    yield from start_up()
    with tempfile.TemporaryDirectory() as folder:
        yield demo(out := Path(folder) / "demo")
        bundle = Bundle.open(out)
        yield from recorded(bundle)
        yield engines(bundle)
        yield memory()
        yield from quality(bundle, cores())
        if data is not None:
            yield zoo_distance(bundle, data, cores())


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/edgegen/fashion-mnist")
    parser.add_argument(
        "--quick", action="store_true", help="leave the 10k FD out: needs no data set"
    )
    parser.add_argument("--calibrate", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.calibrate:
        source = load_generator("cas-dm")
        calibrated(source, fp32_models(source), given.calibrate, Context())
        print(peak_bytes())
        return
    rows = followed(goals(None if given.quick else given.data))
    seeds = f"from {EVIDENCE.first:,} on; calibration from 0 on"
    report(given.json, "main_job", "goals", Part(rows, seeds, cores(), {"pairs": PAIRS}))
    print(f"{sum(one['met'] for one in rows)} of {len(rows)} goals met")


if __name__ == "__main__":
    main()
