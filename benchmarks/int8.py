"""INT8 of bundles is compared with other toolkits' INT8 of the same FP32 graphs, from the same
feeds, in one run.

    python -m benchmarks int8 out/cas-dm out/isc-gan --nncf A/bin/python \
        --modelopt B/bin/python --olive C/bin/python [--json FILE]

ONNX Runtime's own quantizer is here already; NNCF (OpenVINO's), ModelOpt (TensorRT's) and Olive
(which drives ONNX Runtime's) come in environments of their own, whose Python is named. Each peer is
used as its documentation shows it: static, min-max or its default, all that it quantizes by
default. Feeds are what the sampler asks the graphs for on seeds 0, 1, ... What is judged: pairs of
images on fresh seeds, the change of the Frechet distance with its 95 % interval, PSNR, and CPU
seconds from seed to image (batch 8, one thread, interleaved medians).

--parts measures what costs the images of a bundle's OpenVINO files: weights alone, all of them, and
  each activation alone.

--everything FOLDER adds bundles of the same names with all but each graph's ends in INT8, whatever
  the images are, as peers do it.

    edgegen calibrate isc-gan -o stats/
    edgegen export isc-gan --int8 --plan stats/plan.json --fid-budget 100% \
        --min-psnr 0 --max-images 600 -o FOLDER/isc-gan
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import torch
from _peers import Make, convolutions_alone, elsewhere, onnxruntime_own, quantized_by, seconds
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.bundle import Bundle
from edgegen.core.offline import quietly
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import BENCHMARKS
from edgegen.evidence import bench, reference
from edgegen.evidence.compare import compare
from edgegen.evidence.distances import PairedPsnr, squared_error
from edgegen.evidence.features import feature_network
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.looks import LookSchedule
from edgegen.export import runtime
from edgegen.workflows.bench_report.peer_scripts import MODELOPT, NNCF, OLIVE
from edgegen.workflows.generators import load_generator, torch_pipeline
from edgegen.workflows.sampling_choices import SamplingChoices, chosen

onnxruntime = quietly("onnxruntime")
FRESH = BENCHMARKS.first  # no calibration, search or verdict uses these seeds
BATCH, ROUNDS = 8, 7
Peers = Mapping[str, tuple[Make, str]]  # how to make it, and what executes it


def measured(
    folder: Path, everything: Path | None, peers: Peers, samples: int, feeds: int
) -> Iterator[Row]:
    """Yield a row for each candidate; with `samples` 0, only its speed."""
    bundle = Bundle.open(folder)
    full = {n: bundle.pipeline(runtime(n), "fp32", 1) for n in ("onnxruntime", "openvino")}
    recorded = bench.record(full["onnxruntime"], range(feeds))
    stored = reference.read(bundle.path("evidence/reference.safetensors"))
    side = FullSide(
        full["onnxruntime"], feature_network(stored.network, None, stored.size), stored, FRESH
    )
    family = {"family": bundle.manifest.family}
    candidates = {f"edgegen on {n}": one for n, one in own(bundle, full).items()}
    if everything is not None:
        other = own(Bundle.open(everything / folder.name), full)
        candidates |= {f"edgegen on {n}, everything": one for n, one in other.items()}
    with tempfile.TemporaryDirectory() as place:
        for name, (make, host) in peers.items():
            (mine := Path(place) / name.replace(" ", "-").replace(",", "")).mkdir()
            try:
                candidates[name] = quantized_by(make, bundle, recorded, host, mine)
            except Exception as error:  # the failure of a peer is a result too
                yield {**family, "what": name, "failed": str(error)[:300]}
        spent = seconds({f"{n} FP32": p for n, p in full.items()} | candidates, BATCH, ROUNDS)
        base = min(spent[f"{n} FP32"] for n in full)
        for name, pipeline in candidates.items():
            yield {
                **family,
                "what": name,
                "speed": round(base / spent[name], 2),
                "ms an image": round(1e3 * spent[name] / BATCH, 3),
                **(judged(side, pipeline, samples) if samples else {}),
            }


def own(bundle: Bundle, hosts: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    """Return the bundle's INT8 pipelines on those of its runtimes that run here."""
    names = [name for name in bundle.manifest.runtimes if name in hosts]
    return {name: bundle.pipeline(runtime(name), "int8", 1) for name in names}


def judged(side: FullSide, pipeline: Pipeline, samples: int) -> Row:
    found = compare(side, pipeline, 0.02, LookSchedule.once(samples))
    change = found.verdict.change
    return {
        "FD change": round(change.value, 4),
        "low": round(change.low, 4),
        "high": round(change.high, 4),
        "PSNR dB": round(found.psnr_db, 1),
        "FD FP32": round(found.distance_full.value, 1),
        "FD between": round(found.distance_between, 2),
        "verdict": found.verdict.state,
        "pairs": samples,
    }


def parts(folder: Path) -> Iterator[Row]:
    """Yield the PSNR over all pixels of 64 fresh seeds for files with only some of their
    activations rounded; weights are always rounded.
    """
    bundle = Bundle.open(folder)
    full = bundle.pipeline(runtime("onnxruntime"), "fp32", 1)
    int8 = bundle.onnx(runtime("openvino"), "int8")
    files = {graph: onnx.load(bundle.path(file)) for graph, file in int8.items()}
    seeds = range(FRESH, FRESH + 64)
    exact = full(seeds)
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
        made = Pipeline(full.latent, full.sampler, {**full.call, **call})(seeds)
        found = PairedPsnr.of(squared_error(made, exact)).pooled_db
        yield {"family": bundle.manifest.family, "what": name, "PSNR dB": round(found, 1)}


def bypassed(model: onnx.ModelProto, tensors: set[str]) -> onnx.ModelProto:
    """Return the model without the Q/DQ pairs of these tensors."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in out.graph.node:
        node.input[:] = [
            t.removesuffix(".dq") if t.removesuffix(".dq") in tensors else t for t in node.input
        ]
    return out


def _session(model: onnx.ModelProto) -> Callable[..., np.ndarray]:
    """Execute the file operator by operator as it is written, because fused kernels would not round
    everywhere.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        1,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda **inputs: session.run(None, inputs)[0]


def against_eager(folder: Path, source: str) -> Iterator[Row]:
    """Compare the bundle's INT8, from seed to image, with torch in FP32 that runs the teacher's 50
    steps.
    """
    torch.set_num_threads(1)
    bundle = Bundle.open(folder)
    choices = SamplingChoices(steps=50, way="teacher")
    teacher = torch_pipeline(chosen(load_generator(source), choices)[0])
    hosts = {n: bundle.pipeline(runtime(n), "int8", 1) for n in bundle.manifest.runtimes}
    spent = seconds({"torch": teacher} | hosts, BATCH, ROUNDS)
    for name, value in spent.items():
        yield {
            "what": f"{source}: {name}",
            "ms an image": round(1e3 * value / BATCH, 2),
            "times torch's images/s": round(spent["torch"] / value, 1),
        }


def peers_of(given: argparse.Namespace) -> Peers:
    """Return the peers whose environments are named and whose names match the glob."""
    peers: dict[str, tuple[Make, str]] = {
        "ONNX Runtime's own": (onnxruntime_own, "onnxruntime"),
        "ONNX Runtime's own, inner convolutions alone": (convolutions_alone, "onnxruntime"),
    }
    if given.nncf:
        without = elsewhere(given.nncf, NNCF, ".xml", "left")
        peers["NNCF on openvino"] = (elsewhere(given.nncf, NNCF, ".xml"), "openvino")
        peers["NNCF on openvino, without matrix products"] = (without, "openvino")
    if given.modelopt:
        plain = elsewhere(given.modelopt, MODELOPT, ".onnx")
        peers["ModelOpt on onnxruntime"] = (plain, "onnxruntime")
    if given.olive:
        better = elsewhere(given.olive, OLIVE, ".onnx", "better")
        peers["Olive on onnxruntime"] = (elsewhere(given.olive, OLIVE, ".onnx"), "onnxruntime")
        peers["Olive on onnxruntime, per channel"] = (better, "onnxruntime")
    return {name: peer for name, peer in peers.items() if fnmatchcase(name, given.peers)}


def main() -> None:
    parser = arguments_of(__doc__)
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
    for folder in given.bundles:
        if given.eager:
            what, rows = "against torch", against_eager(folder, given.eager)
        elif given.parts:
            what, rows = "parts", parts(folder)
        else:
            what = "peers"
            rows = measured(folder, given.everything, peers_of(given), given.samples, given.feeds)
        about = {"batch": BATCH, "rounds": ROUNDS, "feeds": given.feeds, "pairs": given.samples}
        part = Part(followed(rows), f"from {FRESH:,} on; feeds from 0 on", 1, about)
        report(given.json, "int8", f"{folder.name}, {what}", part)


if __name__ == "__main__":
    main()
