"""isc-gan: which weight of R1 and which rate (sweep), and the squeeze connection against
StyleGAN2's (ablation).

    python benchmarks/isc_gan.py sweep --data DATA --out O --device cuda --minutes 2 --jobs 4
    python benchmarks/isc_gan.py ablation --data DATA --out O --device cuda --minutes 3 \
        --jobs 3 --base gamma0.1-rate0.001
    python benchmarks/isc_gan.py sweep --data DATA --evaluate O --samples 2000
    python benchmarks/isc_gan.py ablation --data DATA --evaluate O

Trainings: `--jobs` at a time as processes of their own, on the train split; all see the same images
in the same order. Minutes are each training's: a probe of the first `--jobs` says how many images
the slowest sees in them, and all get that many. O gets one file a training,
VARIANT-seedK.safetensors: the averaged generator in FP16 with its description, losses and speed.
Evaluation: FD over EfficientNet-Lite0 at 128 px, all 1280 features, against the whole test split;
same seeds for all. Sweep adds a picture of ten images a class. Ablation adds CPU milliseconds a
batch of 8 (one thread, interleaved medians) of each variant.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import features_of, pipelines
from safetensors import safe_open
from safetensors.torch import save_file

from edgegen.core.images import grid, save_png, to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.seeds import EVIDENCE
from edgegen.evidence.bench import latencies, middle, record
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import feature_network
from edgegen.families import Recipe, family
from edgegen.families.isc_gan.config import IscGanConfig
from edgegen.families.isc_gan.family import IscGan, half_life
from edgegen.training import checkpoint
from edgegen.training.data import load
from edgegen.training.device import DEVICES, device_of
from edgegen.training.loop import Trainer, TrainerOptions, shipped
from edgegen.workflows.context import cores
from edgegen.workflows.generators import torch_pipeline

Change = Callable[[Recipe], Recipe]
PROBE = (40, 160)  # steps that warm up, and that are timed with them
LATE = 1.15  # times its minutes after which a training stops where it is
PARTS = 10  # of a training whose mean losses are told


def regular(**changes: Any) -> Change:
    """A recipe with other regularizers; `rate`, if given, is the recipe's."""

    def change(recipe: Recipe) -> Recipe:
        rate = changes.get("rate", recipe.rate)
        weights = replace(
            recipe.config.regularizers, **{k: v for k, v in changes.items() if k != "rate"}
        )
        return replace(recipe, rate=rate, config=replace(recipe.config, regularizers=weights))

    return change


def shaped(**changes: Any) -> Change:
    """A recipe whose generator has other connections."""
    return lambda recipe: replace(recipe, config=replace(recipe.config, **changes))


SWEEP: dict[str, Change] = {
    f"gamma{gamma:g}-rate{rate:g}": regular(r1_gamma=gamma, rate=rate)
    for gamma in (0.01, 0.1, 1.0)
    for rate in (0.0025, 0.001)
} | {"ada": regular(ada_target=0.6), "fp32": lambda recipe: replace(recipe, precision="fp32")}
# the others by --variants
FIRST = ("gamma0.01-rate0.0025", "gamma0.1-rate0.0025", "gamma0.1-rate0.001", "gamma1-rate0.0025")
ABLATION: dict[str, Change] = {
    "skip": shaped(connection="skip"),
    "squeeze-r4": shaped(connection="squeeze", ratio=4),
    "squeeze-r8": shaped(connection="squeeze", ratio=8),
    "up-before": shaped(up="before"),
    "noise": shaped(noise=True),
}
# by --variants: the published blocks, against squeeze-r4
CONNECTIONS = ("skip", "squeeze-r4", "squeeze-r8")


@dataclass(frozen=True)
class Job:
    """One training, as its process is told it in JSON."""

    what: str
    variant: str
    seed: int
    recipe: str  # of the family, that the variants change
    # variants of the sweep, comma-separated, that this one is a change of; "" for the recipe itself
    base: str
    images: int  # 0: the probe
    minutes: float  # after LATE times as many it stops; 0: never
    batch: int  # 0: the recipe's
    device: str
    threads: int
    data: str
    out: str

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    def plan(self) -> Recipe:
        """The recipe that this training follows."""
        recipe = family("isc-gan").recipes[self.recipe]()
        if self.batch:
            life = math.log(0.5) / math.log(recipe.ema) * recipe.batch  # in images: it stays
            recipe = replace(recipe, batch=self.batch, ema=half_life(round(life), self.batch))
        for name in filter(None, self.base.split(",")):
            recipe = SWEEP[name](recipe)
        recipe = (SWEEP if self.what == "sweep" else ABLATION)[self.variant](recipe)
        return replace(recipe, images=self.images or sum(PROBE) * recipe.batch)


def train(job: Job) -> None:
    """In a process of its own: a probe prints its images a second, a training writes its file."""
    torch.set_num_threads(job.threads)
    recipe = job.plan()
    photos = load(Path(job.data), recipe.config.size)[0]
    recipe = replace(recipe, config=replace(recipe.config, classes=len(photos.classes)))
    torch.manual_seed(job.seed)
    made = IscGan(recipe.config)
    trainer = Trainer.start(made, recipe, photos, job.seed, TrainerOptions(device_of(job.device)))
    if not job.images:
        print(json.dumps(speed(trainer)))
        return
    start, losses = time.monotonic(), list[dict[str, float]]()
    for report in trainer.run():
        losses.append(report)
        if trainer.step % (trainer.steps // PARTS or 1) == 0:
            print(
                f"{job.name} {trainer.images}/{trainer.steps * recipe.batch} "
                f"{means(losses[-(trainer.steps // PARTS or 1) :])}",
                file=sys.stderr,
                flush=True,
            )
        if job.minutes and time.monotonic() - start > 60 * LATE * job.minutes:
            break
    spent = time.monotonic() - start
    parts = [
        means([losses[k] for k in part])
        for part in np.array_split(np.arange(len(losses)), PARTS)
        if len(part)
    ]
    about = {
        **checkpoint.describe("isc-gan", recipe.config),
        "variant": job.variant,
        "seed": job.seed,
        "images": trainer.images,
        "of": recipe.images,
        "rate": recipe.rate,
        "batch": recipe.batch,
        "precision": recipe.precision,
        "seconds": spent,
        "skipped": trainer.skipped,
        "losses": parts,
        "device": job.device,
    }
    tensors = {k: v.cpu().half().contiguous() for k, v in shipped(trainer).items()}
    save_file(tensors, Path(job.out) / f"{job.name}.safetensors", {"edgegen": json.dumps(about)})


def speed(trainer: Trainer) -> float:
    """Images a second after warming up."""
    start = 0.0
    for _ in trainer.run():
        if trainer.step == PROBE[0]:
            start = time.monotonic()
    return PROBE[1] * trainer.recipe.batch / (time.monotonic() - start)


def means(reports: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(float(np.nanmean([r[k] for r in reports])), 4) for k in reports[0]}


def run_all(jobs: list[Job], count: int, images: int) -> None:
    """Every job in a process of its own, `count` at a time; without `images` the first ones' probe
    says how many.
    """
    if not images:
        with ThreadPoolExecutor(count) as pool:
            found = [float(text) for text in pool.map(run_one, jobs[:count])]
        images = int(min(found) * 60 * jobs[0].minutes)
        print(
            f"images/s of {len(found)} at a time: {', '.join(f'{v:.0f}' for v in found)}; {images} "
            "images each",
            flush=True,
        )
    start = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run_one, [replace(job, images=images) for job in jobs]))
    print(f"{len(jobs)} trainings in {time.monotonic() - start:.0f} s", flush=True)


def run_one(job: Job) -> str:
    """What the process prints; RuntimeError when it fails."""
    command = [sys.executable, __file__, "train", "--job", json.dumps(vars(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job.name} ended with {done.returncode}")
    return done.stdout


def trained(folder: Path, known: Iterable[str]) -> Iterator[tuple[dict[str, Any], IscGan]]:
    """Descriptions and generators of a folder's files, by variant in the order known, then by
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


def evaluate(what: str, folder: Path, data: Path, samples: int) -> None:
    """Tables on stdout; a sweep's pictures beside its files."""
    network = feature_network("efficientnet-lite0")
    found: dict[str, list[tuple[dict[str, Any], IscGan, float]]] = {}
    real: Moments | None = None
    print(
        f"FD: efficientnet-lite0 at {network.size} px, {network.dim} features, n = {samples} "
        "against the test split"
    )
    print("variant | seed | images seen | seconds | skipped | losses, first and last tenth | FD")
    for about, made in trained(folder, SWEEP if what == "sweep" else ABLATION):
        if real is None:
            real = Moments.of(
                features_of(network, load(data, made.config.size, split="test")[0].pixels)
            )
        pipeline = torch_pipeline(made)
        images = to_uint8(pipeline(range(EVIDENCE.first, EVIDENCE.first + samples)))
        distance = frechet(real, Moments.of(features_of(network, images)))
        first, last = about["losses"][0], about["losses"][-1]
        print(
            f"{about['variant']} | {about['seed']} | {about['images']} of {about['of']} | "
            f"{about['seconds']:.0f} | "
            f"{about['skipped']} | {first} {last} | {distance:.1f}",
            flush=True,
        )
        found.setdefault(about["variant"], []).append((about, made, distance))
        classes = max(made.config.classes, 1)
        if what == "sweep":
            save_png(
                folder / f"{about['variant']}-seed{about['seed']}.png",
                grid(to_uint8(pipeline(range(10 * classes))), classes),
                2,
            )
    if what == "ablation" and found:
        summary(found)


def summary(found: dict[str, list[tuple[dict[str, Any], IscGan, float]]]) -> None:
    """Means, deviations, parameters and latency of each variant, and what may be claimed
    (docs/methods/isc-gan.md, A.3 test 9).
    """
    with tempfile.TemporaryDirectory() as folder:
        made = dict[str, Pipeline]()
        for name, runs in found.items():
            (place := Path(folder) / name).mkdir()
            made |= {f"{name} {kind}": p for kind, p in pipelines(runs[0][1], place).items()}
        times = latencies(made, middle(record(next(iter(made.values())), range(8))), threads=1)
    kinds = [k.partition(" ")[2] for k in times if k.startswith(f"{next(iter(found))} ")]
    print(f"\nvariant | seeds | FD mean | sd | parameters | {' | '.join(f'{k} ms' for k in kinds)}")
    middles: dict[str, tuple[float, float]] = {}
    for name, runs in found.items():
        values = [distance for _, _, distance in runs]
        middles[name] = mean, sd = (
            float(np.mean(values)),
            float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        )
        count = sum(p.numel() for p in runs[0][1].shipped.parameters())
        columns = " | ".join(f"{times[f'{name} {k}'].cpu_ms:.3f}" for k in kinds)
        print(f"{name} | {len(values)} | {mean:.1f} | {sd:.1f} | {count:,} | {columns}")
    if "skip" in middles:
        for name in (n for n in middles if n != "skip"):
            print(f"{name}: {against(middles[name], middles['skip'])}")


def against(a: tuple[float, float], b: tuple[float, float]) -> str:
    """(mean, sd) of FD against skip's: an improvement or a loss only where the two ranges of one
    deviation are apart.
    """
    (mean, sd), (other, spread) = a, b
    if not math.isfinite(sd + spread):
        return f"{mean - other:+.1f} FD against skip; one seed says nothing more"
    if abs(mean - other) > sd + spread:
        return (
            f"{mean - other:+.1f} FD against skip: {'better' if mean < other else 'worse'}, "
            "the "
            "ranges of one sd are apart"
        )
    return (
        f"{mean - other:+.1f} FD against skip: not "
        f"{'worse' if mean <= other + spread else 'better'} within one sd"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sweep", "ablation", "train"))
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
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        train(Job(**json.loads(given.job)))
        return
    if given.evaluate:
        torch.set_num_threads(given.threads)
        evaluate(given.what, given.evaluate, given.data, given.samples)
        return
    known = SWEEP if given.what == "sweep" else ABLATION
    names = (
        given.variants.split(",")
        if given.variants
        else FIRST
        if given.what == "sweep"
        else CONNECTIONS
    )
    if unknown := [n for n in names if n not in known] + [
        n for n in given.base.split(",") if n and n not in SWEEP
    ]:
        parser.error(f"unknown variants {', '.join(unknown)}; known: {', '.join(SWEEP | ABLATION)}")
    if not (given.images or given.minutes):
        parser.error("--images or --minutes says how long")
    given.out.mkdir(parents=True, exist_ok=True)
    threads = max(1, cores() // given.jobs)
    jobs = [
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
            threads,
            str(given.data),
            str(given.out),
        )
        for seed in range(given.seeds or (1 if given.what == "sweep" else 3))
        for name in names
    ]
    run_all(jobs, given.jobs, given.images)


if __name__ == "__main__":
    main()
