"""Train isc-gan's variants, each in a process of its own, and write their files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from edgegen.families import Recipe, family
from edgegen.families.isc_gan.family import IscGan, half_life
from edgegen.training import checkpoint
from edgegen.training.data import load
from edgegen.training.device import device_of
from edgegen.training.loop import Trainer, TrainerOptions, shipped

Change = Callable[[Recipe], Recipe]
PROBE = (40, 160)  # steps that warm up, and steps that are timed after them
LATE = 1.15  # times its minutes after which a training is stopped
PARTS = 10  # parts of a training whose mean losses are recorded


def regular(**changes: Any) -> Change:
    """Return a change to other regularizers; `rate`, if given, is the recipe's."""

    def change(recipe: Recipe) -> Recipe:
        rate = changes.get("rate", recipe.rate)
        weights = replace(
            recipe.config.regularizers, **{k: v for k, v in changes.items() if k != "rate"}
        )
        return replace(recipe, rate=rate, config=replace(recipe.config, regularizers=weights))

    return change


def shaped(**changes: Any) -> Change:
    """Return a change of the generator's config, such as its connections."""
    return lambda recipe: replace(recipe, config=replace(recipe.config, **changes))


SWEEP: dict[str, Change] = {
    f"gamma{gamma:g}-rate{rate:g}": regular(r1_gamma=gamma, rate=rate)
    for gamma in (0.01, 0.1, 1.0)
    for rate in (0.0025, 0.001)
} | {"ada": regular(ada_target=0.6), "fp32": lambda recipe: replace(recipe, precision="fp32")}
# the others are chosen by --variants
FIRST = ("gamma0.01-rate0.0025", "gamma0.1-rate0.0025", "gamma0.1-rate0.001", "gamma1-rate0.0025")
ABLATION: dict[str, Change] = {
    "skip": shaped(connection="skip"),
    "squeeze-r4": shaped(connection="squeeze", ratio=4),
    "squeeze-r8": shaped(connection="squeeze", ratio=8),
    "up-before": shaped(up="before"),
    "noise": shaped(noise=True),
}
# by --variants: the published blocks, compared with squeeze-r4
CONNECTIONS = ("skip", "squeeze-r4", "squeeze-r8")


@dataclass(frozen=True)
class Job:
    """Describe one training, as its process receives it in JSON."""

    what: str
    variant: str
    seed: int
    recipe: str  # recipe of the family that the variants change
    # comma-separated variants of the sweep that this one builds on; "" for the recipe itself
    base: str
    images: int  # 0: the probe
    minutes: float  # it stops after LATE times as many; 0: never
    batch: int  # 0: the recipe's
    device: str
    threads: int
    data: str
    out: str

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    def plan(self) -> Recipe:
        """Return the recipe that this training follows."""
        recipe = family("isc-gan").recipes[self.recipe]()
        if self.batch:
            # half-life in images, which a new batch size must not change
            life = math.log(0.5) / math.log(recipe.ema) * recipe.batch
            recipe = replace(recipe, batch=self.batch, ema=half_life(round(life), self.batch))
        for name in filter(None, self.base.split(",")):
            recipe = SWEEP[name](recipe)
        recipe = (SWEEP if self.what == "sweep" else ABLATION)[self.variant](recipe)
        return replace(recipe, images=self.images or sum(PROBE) * recipe.batch)


def train(job: Job) -> None:
    """Run in a process of its own: a probe prints its images per second, a training writes its
    file.
    """
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
    """Return the images per second after warming up."""
    start = 0.0
    for _ in trainer.run():
        if trainer.step == PROBE[0]:
            start = time.monotonic()
    return PROBE[1] * trainer.recipe.batch / (time.monotonic() - start)


def means(reports: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(float(np.nanmean([r[k] for r in reports])), 4) for k in reports[0]}


def run_all(jobs: list[Job], count: int, images: int) -> None:
    """Run every job in a process of its own, `count` at a time; without `images`, a probe with the
    first jobs decides how many.
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
    """Return what the process prints. Raises RuntimeError if it fails."""
    command = [sys.executable, __file__, json.dumps(vars(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job.name} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    train(Job(**json.loads(sys.argv[1])))
