"""INT8 of bundles against other toolkits' INT8 of the same FP32 graphs, from the same feeds, in one
run: a JSON line each.

    python benchmarks/int8.py out/cas-dm out/isc-gan --nncf A/bin/python \
        --modelopt B/bin/python --olive C/bin/python

ONNX Runtime's own quantizer is here already; NNCF (OpenVINO's), ModelOpt (TensorRT's) and Olive
(which drives ONNX Runtime's) come in environments of their own, whose Python is named. Each peer is
used as its documentation shows it: static, min-max or its default, all that it quantizes by
default. Feeds: what the sampler asks the graphs for on seeds 0, 1, ... Judged: pairs of images on
fresh seeds, the change of the Frechet distance with its 95 % interval, PSNR, and CPU seconds from
seed to image (batch 8, one thread, interleaved medians).

--parts: what costs the images of a bundle's OpenVINO files: weights alone, all of them, and each
  activation alone.

--everything FOLDER: bundles of the same names with all but each graph's ends in INT8, whatever the
  images are, as peers do it.

    edgegen calibrate isc-gan -o stats/
    edgegen export isc-gan --int8 --plan stats/plan.json --fid-budget 100% \
        --min-psnr 0 --max-images 600 -o FOLDER/isc-gan
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import torch

from edgegen.core.bundle import Bundle
from edgegen.core.offline import quietly
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import BENCHMARKS
from edgegen.evidence import bench, reference
from edgegen.evidence.compare import compare
from edgegen.evidence.features import feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.looks import LookSchedule
from edgegen.export import runtime
from edgegen.workflows.bench_report.peer_scripts import MODELOPT, NNCF, OLIVE, ONNXRUNTIME
from edgegen.workflows.bench_report.peers import inner_convolutions
from edgegen.workflows.generators import load_generator, torch_pipeline
from edgegen.workflows.sampling_choices import SamplingChoices, chosen

onnxruntime = quietly("onnxruntime")
FRESH = BENCHMARKS.first  # no calibration, search or verdict has seen these
BATCH, ROUNDS = 8, 7
Feeds = list[dict[str, np.ndarray]]
# FP32 graph, feeds, where to write -> what its runtime loads
Make = Callable[[Path, Feeds, Path], Path]


def elsewhere(python: str, code: str, suffix: str, *more: str) -> Make:
    """A peer that runs in an environment of its own."""

    def make(graph: Path, feeds: Feeds, out: Path) -> Path:
        held = out.with_suffix(".npz")
        np.savez(held, **{f"{n}|{i}": v for i, feed in enumerate(feeds) for n, v in feed.items()})  # type: ignore[arg-type]
        done = subprocess.run(
            [python, "-c", code, graph, held, out, *more],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
        return out.with_suffix(suffix)

    return make


# ONNX Runtime's quantize_static, after the preprocessing that its documentation asks for
onnxruntime_own = elsewhere(sys.executable, ONNXRUNTIME, ".onnx")


def convolutions_alone(graph: Path, feeds: Feeds, out: Path) -> Path:
    """ONNX Runtime's, with what edgegen leaves in FP32 left out by hand: all but convolutions, and
    each graph's ends.
    """
    words = inner_convolutions(graph)
    return elsewhere(sys.executable, ONNXRUNTIME, ".onnx", *words)(graph, feeds, out)


def quantized_by(
    make: Make, bundle: Bundle, feeds: Mapping[str, Feeds], host: str, folder: Path
) -> Pipeline:
    """The bundle's FP32 graphs quantized by a peer; executed by `host`."""
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    call = {}
    for graph, name in bundle.manifest.graphs.items():
        # ModelOpt writes into what it is given
        own = Path(shutil.copy(bundle.path(name), folder / f"{graph}-full.onnx"))
        made = make(own, feeds[graph], folder / graph)
        call[graph] = runtime(host).load(made, 1)
    return Pipeline(full.latent, full.sampler, call)


def seconds(
    candidates: Mapping[str, Pipeline], batch: int = BATCH, rounds: int = ROUNDS
) -> dict[str, float]:
    """CPU seconds of one batch from seed to image, median of interleaved rounds; each behind a
    batch of its own, as in use.
    """
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        for name, pipeline in candidates.items():
            pipeline(range(turn * batch, (turn + 1) * batch))
            start = time.process_time()
            pipeline(range(turn * batch, (turn + 1) * batch))
            spent[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in spent.items()}


def measured(
    folder: Path,
    everything: Path | None,
    peers: Mapping[str, tuple[Make, str]],
    samples: int,
    feeds: int,
) -> None:
    """A line a candidate; samples 0: of its speed alone."""
    bundle = Bundle.open(folder)
    full = {n: bundle.pipeline(runtime(n), "fp32", 1) for n in ("onnxruntime", "openvino")}
    recorded = bench.record(full["onnxruntime"], range(feeds))
    stored = reference.read(bundle.path("evidence/reference.safetensors"))
    side = FullSide(
        full["onnxruntime"], feature_network(stored.network, None, stored.size), stored, FRESH
    )
    candidates = {
        f"edgegen on {n}": bundle.pipeline(runtime(n), "int8", 1)
        for n in bundle.manifest.runtimes
        if n in full
    }
    if everything is not None:
        other = Bundle.open(everything / folder.name)
        candidates |= {
            f"edgegen on {n}, everything": other.pipeline(runtime(n), "int8", 1)
            for n in other.manifest.runtimes
            if n in full
        }
    with tempfile.TemporaryDirectory() as place:
        for name, (make, host) in peers.items():
            (mine := Path(place) / name.replace(" ", "-").replace(",", "")).mkdir()
            try:
                candidates[name] = quantized_by(make, bundle, recorded, host, mine)
            except Exception as error:  # a peer that fails is a result
                print(
                    json.dumps(
                        {"family": bundle.manifest.family, "what": name, "failed": str(error)[:300]}
                    ),
                    flush=True,
                )
        spent = seconds({f"{n} FP32": p for n, p in full.items()} | candidates)
        base = min(spent[f"{n} FP32"] for n in full)
        for name, pipeline in candidates.items():
            timed = {
                "family": bundle.manifest.family,
                "what": name,
                "speed": round(base / spent[name], 2),
                "ms an image": round(1e3 * spent[name] / BATCH, 3),
            }
            if not samples:
                print(json.dumps(timed), flush=True)
                continue
            found = compare(side, pipeline, 0.02, LookSchedule.once(samples))
            change = found.verdict.change
            print(
                json.dumps(
                    timed
                    | {
                        "FD change": round(change.value, 4),
                        "low": round(change.low, 4),
                        "high": round(change.high, 4),
                        "PSNR dB": round(found.psnr_db, 1),
                        "FD FP32": round(found.distance_full.value, 1),
                        "FD between": round(found.distance_between, 2),
                        "verdict": found.verdict.state,
                        "pairs": samples,
                    }
                ),
                flush=True,
            )


def parts(folder: Path) -> None:
    """PSNR, of all pixels of 64 fresh seeds, of the files with some of their activations rounded;
    weights always are.
    """
    bundle = Bundle.open(folder)
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    files = {
        graph: onnx.load(path) for graph, path in bundle.onnx(runtime("openvino"), "int8").items()
    }
    seeds = range(FRESH, FRESH + 64)
    exact = full(seeds).astype(np.float64)
    rounded = [
        (g, n.input[0])
        for g, m in files.items()
        for n in m.graph.node
        if n.op_type == "QuantizeLinear"
    ]
    asked = {
        "weights alone": [],
        "everything": rounded,
        **{f"{g}/{t} alone": [(g, t)] for g, t in rounded},
    }
    for name, these in asked.items():
        call = {
            g: _session(
                bypassed(m, {t for graph, t in rounded if graph == g and (graph, t) not in these})
            )
            for g, m in files.items()
        }
        error = float(
            np.square(
                Pipeline(full.latent, full.sampler, {**full.call, **call})(seeds) - exact
            ).mean()
        )
        print(
            json.dumps(
                {
                    "family": bundle.manifest.family,
                    "what": name,
                    "PSNR dB": round(10 * np.log10(4 / error), 1),
                }
            ),
            flush=True,
        )


def bypassed(model: onnx.ModelProto, tensors: set[str]) -> onnx.ModelProto:
    """Without the Q/DQ pairs of these tensors."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in out.graph.node:
        node.input[:] = [
            t.removesuffix(".dq") if t.removesuffix(".dq") in tensors else t for t in node.input
        ]
    return out


def _session(model: onnx.ModelProto) -> Callable[..., np.ndarray]:
    """As the file says, operator by operator: fusing kernels would round where it does not."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        1,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda **inputs: session.run(None, inputs)[0]


def against_eager(folder: Path, source: str) -> None:
    """The bundle's INT8, from seed to image, against torch in FP32 that takes the teacher's 50
    steps.
    """
    torch.set_num_threads(1)
    bundle = Bundle.open(folder)
    choices = SamplingChoices(steps=50, way="teacher")
    teacher = torch_pipeline(chosen(load_generator(source), choices)[0])
    spent = seconds(
        {"torch": teacher}
        | {n: bundle.pipeline(runtime(n), "int8", 1) for n in bundle.manifest.runtimes}
    )
    for name, value in spent.items():
        print(
            json.dumps(
                {
                    "what": f"{source}: {name}",
                    "ms an image": round(1e3 * value / BATCH, 2),
                    "times torch's images/s": round(spent["torch"] / value, 1),
                }
            ),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--nncf", help="Python that has nncf and openvino")
    parser.add_argument("--modelopt", help="Python that has nvidia-modelopt[onnx]")
    parser.add_argument("--olive", help="Python that has olive-ai")
    parser.add_argument(
        "--peers",
        default="*",
        help='glob over their names, such as "Olive*"; edgegen is always there',
    )
    parser.add_argument(
        "--eager",
        help="a zoo name: only its teacher's 50 steps in torch against the one bundle that is "
        "named",
    )
    parser.add_argument(
        "--parts", action="store_true", help="only what costs the images of each bundle"
    )
    parser.add_argument(
        "--everything",
        type=Path,
        help="folder of bundles of the same names with everything in INT8",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=2000,
        help="pairs that are judged; 0: speeds alone, on an idle machine",
    )
    parser.add_argument("--feeds", type=int, default=128)
    given = parser.parse_args()
    if given.eager:
        against_eager(given.bundles[0], given.eager)
        return
    if given.parts:
        for folder in given.bundles:
            parts(folder)
        return
    peers: dict[str, tuple[Make, str]] = {
        "ONNX Runtime's own": (onnxruntime_own, "onnxruntime"),
        "ONNX Runtime's own, inner convolutions alone": (convolutions_alone, "onnxruntime"),
    }
    if given.nncf:
        peers["NNCF on openvino"] = (elsewhere(given.nncf, NNCF, ".xml"), "openvino")
        peers["NNCF on openvino, without matrix products"] = (
            elsewhere(given.nncf, NNCF, ".xml", "left"),
            "openvino",
        )
    if given.modelopt:
        peers["ModelOpt on onnxruntime"] = (
            elsewhere(given.modelopt, MODELOPT, ".onnx"),
            "onnxruntime",
        )
    if given.olive:
        peers["Olive on onnxruntime"] = (elsewhere(given.olive, OLIVE, ".onnx"), "onnxruntime")
        peers["Olive on onnxruntime, per channel"] = (
            elsewhere(given.olive, OLIVE, ".onnx", "better"),
            "onnxruntime",
        )
    peers = {name: peer for name, peer in peers.items() if fnmatchcase(name, given.peers)}
    for folder in given.bundles:
        measured(folder, given.everything, peers, given.samples, given.feeds)


if __name__ == "__main__":
    main()
