"""What storing the float weights of INT8 files in float16 saves is measured, and what it costs.

    python -m benchmarks storage lcd cas-dm [--json FILE]
    python -m benchmarks storage tests/data/emoji --prompts tests/data/emoji/prompts.txt
    python -m benchmarks storage sd15 [--json FILE]

Each runtime's files of the plan that has most in INT8, weights to the nearest number, both ways:
bytes that it loads, CPU time of a trajectory's calls (both in turn, medians), peak memory of a
process that loads and runs them, images of equal seeds. The checkpoint is two bytes a number of the
same graphs; where there is a text encoder, the last column counts it on both sides. sd15: Stable
Diffusion 1.5's shapes in FP16, counted and not made.
docs/decisions/0018-storage.md has what was measured.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _full_size import NETWORKS
from _measure import said_by
from _result import Part, Row, arguments_of, report
from onnx import ModelProto, TensorProto

from edgegen.core.runtime import Pipeline, Runtime
from edgegen.core.spec import Array
from edgegen.evidence import bench
from edgegen.evidence.distances import psnr
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export.calibration import Calibration, calibrate_graphs
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.export.fp32 import fp32_models
from edgegen.workflows.generators import LoadedGenerator, load_generator
from edgegen.workflows.source_choices import SourceChoices

RUNTIMES = ("onnxruntime", "openvino")
STORED = ("float32", "float16")
CALIBRATED, IMAGES, FIRST_SEED, ROUNDS = 32, 8, 1_000_000, 15
FULL_SIZE = "sd15"
PEAK = """
import sys
from pathlib import Path
from edgegen.export import runtime
from edgegen.machine.resident import peak_bytes
host, held = runtime(sys.argv[1]), []
import numpy as np
for file in sys.argv[2:]:
    session = host.load(Path(file), 1)
    inputs = np.load(Path(file).with_suffix(".npz"))
    session(**inputs)
    held.append(session)
print(peak_bytes())
"""
# Prints name and shape of each network's parameters, and whether a convolution or product has it.
SHAPES = (
    NETWORKS
    + """
import json

found = {}
for name, network in (("U-Net", unet), ("decoder", vae.decoder), ("text encoder", text)):
    found[name] = [
        [f"{path}.{key}", list(weight.shape), type(layer).__name__ in ("Conv2d", "Linear")]
        for path, layer in network.named_modules()
        for key, weight in layer.named_parameters(recurse=False)
    ]
print(json.dumps(found))
"""
)

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
ENDS = ("conv_in.weight", "conv_out.weight")  # every plan leaves these in float
# bytes for each output channel of an INT8 layer: scale and zero point; those of an int32 bias with
# its own, and of a float bias
CODE, INT32_BIAS, FLOAT_BIAS = 5, 12, 4
Models = Mapping[str, ModelProto]


@dataclass(frozen=True)
class Made:
    """Hold a runtime's files for one way to store: the pipeline, what it loads, and their bytes."""

    pipeline: Pipeline
    files: Sequence[Path]
    bytes: int


def storing(name: str, kind: str) -> Runtime:
    """Return the runtime with a dialect whose files keep float weights in that type."""
    host = runtime(name)
    host.dialect = replace(host.dialect, stored="float16" if kind == "float16" else "float32")
    return host


def made(source: LoadedGenerator, models: Models, host: Runtime, folder: Path) -> Made:
    """Build these ONNX models for the runtime in that folder, and load them."""
    folder.mkdir(parents=True)
    call, files, total = {}, [], 0
    for graph, model in models.items():
        paths = host.build(onnx_files.write(model, folder / f"{graph}.onnx"), folder)
        call[graph] = host.load(paths[0], 1)
        files.append(paths[0])
        total += sum(path.stat().st_size for path in paths)
    latent, sampler = source.generator.latent, source.generator.sampler
    return Made(Pipeline(latent, sampler, call, IMAGES), files, total)


def mean_psnr(a: Array, b: Array) -> float:
    """Return the mean PSNR over images in [-1, 1]; equal images count as 200."""
    return round(float(np.minimum(psnr(a, b), 200).mean()), 1)


def peak_mb(name: str, files: Sequence[Path], calls: bench.Feeds) -> int:
    """Return the peak memory in MB of a process that loads these files and runs each once."""
    for file in files:
        arrays: dict[str, Any] = dict(calls[file.stem][0])
        np.savez(file.with_suffix(".npz"), **arrays)
    return round(int(said_by("-c", PEAK, name, *map(str, files))) / 1e6)


def numbers(models: Models) -> int:
    """Return the number of weights in float graphs."""
    held = (t for model in models.values() for t in model.graph.initializer)
    return sum(math.prod(t.dims) for t in held if t.data_type in FLOATS)


def measured(name: str, prompts: Path | None) -> Iterator[Row]:
    """Yield the rows of a generator on each runtime, stored both ways."""
    source = load_generator(name, choices=SourceChoices(prompts=prompts))
    models = fp32_models(source)
    found = calibrate_graphs(source, models, Trajectories(source.generator, CALIBRATED), Context())
    text = {} if source.text is None else source.text.graphs
    encoders = {graph: onnx_files.to_onnx(value, graph) for graph, value in text.items()}
    for host in RUNTIMES:
        for row in on_runtime(source, models, found, numbers(encoders), host):
            yield {"generator": Path(name).name, **row}


def on_runtime(
    source: LoadedGenerator, models: Models, found: Calibration, text: int, host: str
) -> Iterator[Row]:
    """Yield the rows of one runtime; `text` is the number of weights in the text encoder."""
    seeds = range(FIRST_SEED, FIRST_SEED + IMAGES)
    with tempfile.TemporaryDirectory() as place:
        full = made(source, models, runtime(host), Path(place) / "full")
        files = {}
        for kind in STORED:
            target = storing(host, kind)
            int8 = {
                graph: qdq.quantize(model, graph, found.plan, target.dialect)
                for graph, model in found.models.items()
            }
            files[kind] = made(source, int8, target, Path(place) / kind)
        calls = bench.record(full.pipeline, seeds[:1])
        pipelines = {kind: one.pipeline for kind, one in files.items()}
        times = bench.latencies(pipelines, calls, 1, ROUNDS)
        exact = full.pipeline(seeds)
        images = {kind: one(seeds) for kind, one in pipelines.items()}
        checkpoint = 2 * numbers(models)
        for kind, one in files.items():
            whole = (one.bytes + 4 * text) / (checkpoint + 2 * text)
            yield {
                "runtime": host,
                "stored in": kind,
                "MB": round(one.bytes / 1e6, 2),
                "of the FP16 checkpoint": round(one.bytes / checkpoint, 3),
                "CPU ms a step": round(times[kind].cpu_ms, 2),
                "peak MB": peak_mb(host, one.files, calls),
                "dB from FP32": mean_psnr(exact, images[kind]),
                "dB from stored in float32": mean_psnr(images["float32"], images[kind]),
                "with the text encoder": round(whole, 3) if text else None,
            }


def counted() -> Iterator[Row]:
    """Yield rows for Stable Diffusion 1.5's shapes, whose text encoder keeps the weights of the
    FP16 folder.
    """
    networks: dict[str, list[tuple[str, list[int], bool]]] = json.loads(said_by("-c", SHAPES))
    text = sum(math.prod(shape) for _, shape, _ in networks.pop("text encoder"))
    parameters = [one for network in networks.values() for one in network]
    checkpoint = 2 * sum(math.prod(shape) for _, shape, _ in parameters)
    for host in RUNTIMES:
        bias = INT32_BIAS if runtime(host).dialect.int32_bias else FLOAT_BIAS
        for kind, width in zip(STORED, (4, 2), strict=True):
            total = sum(bytes_of(n, s, layer, width, bias) for n, s, layer in parameters)
            yield {
                "generator": FULL_SIZE,
                "runtime": host,
                "stored in": kind,
                "MB": round(total / 1e6, 2),
                "of the FP16 checkpoint": round(total / checkpoint, 3),
                "with the text encoder": round((total + 2 * text) / (checkpoint + 2 * text), 3),
            }


def bytes_of(name: str, shape: Sequence[int], layer: bool, width: int, bias: int) -> int:
    """Return the bytes of a parameter in an INT8 file; `width` is the bytes of a weight that stays
    float.
    """
    size, matrix = math.prod(shape), len(shape) > 1
    if layer and matrix and not name.endswith(ENDS):
        return size + CODE * shape[0]
    if matrix:
        return width * size
    return bias * size if layer else 4 * size


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--prompts", type=Path, help="of a text-to-image folder")
    given = parser.parse_args()
    for name in given.names:
        found = list(counted() if name == FULL_SIZE else measured(name, given.prompts))
        seeds = f"{IMAGES} images from {FIRST_SEED:,} on, calibration from 0 on"
        settings = {"rounds": ROUNDS, "calibrated": CALIBRATED}
        report(given.json, "storage", Path(name).name, Part(found, seeds, 1, settings))


if __name__ == "__main__":
    main()
