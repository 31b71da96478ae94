"""Trainings of isc-gan decide which weight of R1 and which rate (sweep), and compare the squeeze
connection with StyleGAN2's (ablation).

    python -m benchmarks isc_gan sweep --data DATA --out O --device cuda --minutes 2 --jobs 4
    python -m benchmarks isc_gan ablation --data DATA --out O --device cuda --minutes 3 \
        --jobs 3 --base gamma0.1-rate0.001
    python -m benchmarks isc_gan sweep --data DATA --evaluate O --samples 2000
    python -m benchmarks isc_gan ablation --data DATA --evaluate O

Trainings: `--jobs` at a time as processes of their own, on the train split; all see the same images
in the same order. Minutes are each training's: a probe of the first `--jobs` says how many images
the slowest sees in them, and all get that many. O gets one file a training,
VARIANT-seedK.safetensors: the averaged generator in FP16 with its description, losses and speed.
Evaluation: FD over EfficientNet-Lite0 at 128 px, all 1280 features, against the whole test split;
same seeds for all. Sweep adds a picture of ten images a class. Ablation adds CPU milliseconds a
batch of 8 (one thread, interleaved medians) of each variant. --json keeps what an evaluation finds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _isc_gan_trainings import ABLATION, CONNECTIONS, FIRST, SWEEP, Job, run_all
from _precisions import pipelines
from _result import Part, Row, arguments_of, followed, report
from safetensors import safe_open

from edgegen.core.images import grid, save_png, to_uint8
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence.bench import latencies, middle, record
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import feature_network
from edgegen.families.isc_gan.config import IscGanConfig
from edgegen.families.isc_gan.family import IscGan
from edgegen.training import checkpoint
from edgegen.training.data import load
from edgegen.training.device import DEVICES
from edgegen.workflows.context import cores
from edgegen.workflows.generators import torch_pipeline


def trained(folder: Path, known: Iterable[str]) -> Iterator[tuple[dict[str, Any], IscGan]]:
    """Yield descriptions and generators of a folder's files, by variant in the known order, then by
    seed.
    """
    order, found = list(known), list[tuple[dict[str, Any], Path]]()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("edgegen", "{}"))
        if about.get("variant") in order:
            found.append((about, path))
    for about, path in sorted(found, key=lambda f: (order.index(f[0]["variant"]), f[0]["seed"])):
        made = IscGan(checkpoint.parse(IscGanConfig, about["config"], path))
        checkpoint.load_into(made, checkpoint.read_weights(path), path)
        made.networks.eval()
        yield about, made


@dataclass(frozen=True)
class Evaluated:
    """Hold a trained file, and the FD of its images."""

    about: Mapping[str, Any]
    generator: IscGan
    distance: float

    def row(self) -> Row:
        about = self.about
        ends = {"first tenth": about["losses"][0], "last tenth": about["losses"][-1]}
        return {
            "variant": about["variant"],
            "seed": about["seed"],
            "images seen": about["images"],
            "of": about["of"],
            "seconds": about["seconds"],
            "skipped": about["skipped"],
            **{f"{k}, {end}": loss for end, some in ends.items() for k, loss in some.items()},
            "FD": self.distance,
        }


def evaluated(what: str, folder: Path, data: Path, samples: int) -> Iterator[Evaluated]:
    """Evaluate a folder's files; a sweep's pictures are written beside them."""
    network = feature_network("efficientnet-lite0")
    real: Moments | None = None
    for about, made in trained(folder, SWEEP if what == "sweep" else ABLATION):
        if real is None:
            real = Moments.of(network(load(data, made.config.size, split="test")[0].pixels))
        pipeline = torch_pipeline(made)
        images = to_uint8(pipeline(EVIDENCE.take(samples)))
        classes = max(made.config.classes, 1)
        if what == "sweep":
            save_png(
                folder / f"{about['variant']}-seed{about['seed']}.png",
                grid(to_uint8(pipeline(range(10 * classes))), classes),
                2,
            )
        yield Evaluated(about, made, frechet(real, Moments.of(network(images))))


def evaluate(given: argparse.Namespace) -> None:
    """Report the table of a folder's files, and an ablation's summary."""
    found: list[Evaluated] = []

    def rows() -> Iterator[Row]:
        for one in evaluated(given.what, given.evaluate, given.data, given.samples):
            found.append(one)
            yield one.row()

    about = {"samples": given.samples}
    seeds = f"images from {EVIDENCE.first:,} on; trainings as the rows say"
    part = Part(followed(rows()), seeds, given.threads, about)
    report(given.json, "isc_gan", given.what, part)
    if given.what == "ablation" and found:
        part = Part(summary(found), seeds, 1, about)
        report(given.json, "isc_gan", "ablation, variants", part)


def summary(found: Sequence[Evaluated]) -> list[Row]:
    """Return mean and deviation of each variant's FD, parameters and latency, and what may be
    claimed (docs/methods/isc-gan.md, A.3 test 9).
    """
    by_variant: dict[str, list[Evaluated]] = {}
    for one in found:
        by_variant.setdefault(one.about["variant"], []).append(one)
    made = {
        (name, kind): pipeline
        for name, runs in by_variant.items()
        for kind, pipeline in pipelines(runs[0].generator).items()
    }
    inputs = middle(record(next(iter(made.values())), range(8)))
    times = latencies({f"{n} {k}": p for (n, k), p in made.items()}, inputs, threads=1)
    middles = {name: spread([one.distance for one in runs]) for name, runs in by_variant.items()}
    return [
        {
            "variant": name,
            "seeds": len(runs),
            "FD mean": middles[name][0],
            "sd": middles[name][1] if len(runs) > 1 else None,
            "parameters": sum(p.numel() for p in runs[0].generator.shipped.parameters()),
            **{f"{k}, ms": times[f"{n} {k}"].cpu_ms for n, k in made if n == name},
            "FD against skip": against(middles[name], middles["skip"])
            if "skip" in middles and name != "skip"
            else None,
        }
        for name, runs in by_variant.items()
    ]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation; the latter is NaN for a single value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def against(a: tuple[float, float], b: tuple[float, float]) -> str:
    """Compare (mean, sd) of an FD with that of skip: it is an improvement or a loss only if the two
    ranges of one deviation do not overlap.
    """
    (mean, sd), (other, spread) = a, b
    change = f"{mean - other:+.1f}"
    if not math.isfinite(sd + spread):
        return f"{change}; one seed says nothing more"
    if abs(mean - other) > sd + spread:
        better = "better" if mean < other else "worse"
        return f"{change}: {better}, the ranges of one sd are apart"
    return f"{change}: not {'worse' if mean <= other + spread else 'better'} within one sd"


def jobs_of(given: argparse.Namespace, names: Sequence[str]) -> list[Job]:
    """Return a job for each variant and seed, all variants of a seed before the next seed."""
    return [
        Job(
            given.what,
            name,
            seed,
            given.recipe,
            given.base,
            given.images,
            given.minutes,
            given.batch,
            given.device,
            max(1, cores() // given.jobs),
            str(given.data),
            str(given.out),
        )
        for seed in range(given.seeds or (1 if given.what == "sweep" else 3))
        for name in names
    ]


def train_all(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    is_sweep = given.what == "sweep"
    known, usual = (SWEEP, FIRST) if is_sweep else (ABLATION, CONNECTIONS)
    names = given.variants.split(",") if given.variants else usual
    base = [name for name in given.base.split(",") if name]
    if unknown := [n for n in names if n not in known] + [n for n in base if n not in SWEEP]:
        parser.error(f"unknown variants {', '.join(unknown)}; known: {', '.join(SWEEP | ABLATION)}")
    if not (given.images or given.minutes):
        parser.error("--images or --minutes says how long")
    given.out.mkdir(parents=True, exist_ok=True)
    run_all(jobs_of(given, names), given.jobs, given.images)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("what", choices=("sweep", "ablation"))
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache/edgegen/fashion-mnist")
    parser.add_argument("--out", type=Path, default=Path("out/isc-gan"))
    parser.add_argument("--recipe", default="photos32")
    parser.add_argument(
        "--base",
        default="",
        help="variants of the sweep, comma-separated, that all trainings build on",
    )
    parser.add_argument("--variants", help="comma-separated, instead of the usual ones")
    parser.add_argument(
        "--seeds", type=int, help="trainings a variant: 1 of a sweep, 3 of an ablation unless told"
    )
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--evaluate", type=Path, help="a folder of trained files; nothing is trained"
    )
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument(
        "--threads",
        type=int,
        default=cores(),
        help="of an evaluation; two on a busy core are slower than one",
    )
    given = parser.parse_args()
    if given.evaluate:
        torch.set_num_threads(given.threads)
        evaluate(given)
    else:
        train_all(given, parser)


if __name__ == "__main__":
    main()
