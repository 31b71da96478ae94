"""Fine-tuning on the furniture renders is measured family by family: adapters against the base and
against full fine-tuning.

    python -m benchmarks finetune --data ~/.cache/edgegen/furniture --images 48000 \
        --out runs/finetune
    python -m benchmarks finetune --data ... --out runs/finetune --export
        those runs merged, exported in INT8 and verified
    python -m benchmarks finetune --data ... --memory
        only what a step holds, base by base
    python -m benchmarks finetune --data ... --speed
        only steps a second, against plain peft
    python -m benchmarks finetune --data ... --targets --images 12800
        where pairs go, at equal numbers of trained weights

Distances are the squared Frechet distance and KID over EfficientNet-Lite0 features at 128 px, 512
images against the held-out photos, as `edgegen finetune` prints them. Runs that are there are read,
not run again: a long one can be continued with the verb.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from _measure import columns, in_turns, median
from _result import Part, Row, arguments_of, followed, report
from _teaching import taught
from torch import nn

from edgegen.core.images import save_png, to_uint8
from edgegen.core.seeds import PERIODIC_EVALUATION
from edgegen.core.verdict import Interval
from edgegen.evidence import small_sample_distance
from edgegen.evidence.features import feature_network
from edgegen.evidence.timeline import comparison
from edgegen.families import FAMILIES, Family
from edgegen.machine.resident import peak_bytes
from edgegen.training import run as runs
from edgegen.training.adapt.files import TENSORS
from edgegen.training.adapt.memory import StepMemory, memory
from edgegen.training.data import Photos, load
from edgegen.training.loop import Trainer, TrainerOptions
from edgegen.training.record import pipeline
from edgegen.training.split import split
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.merge import parity
from edgegen.workflows.finetune.periodic_eval import EVALUATION_IMAGES, pictures
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.finetune.setup import FinetunePlan, choose, merge_small_classes

GOALS = (
    "goals: FD / base <= 0.4, adapter / full <= 1.15, trained <= 5 %, file <= 10 %, parity <= "
    "1e-5, near-copies 0"
)
# steps of a measurement of memory or speed, and those of them that are not timed
STEPS, WARM_UP = 12, 2
BASES = ("fp32", "int8", "nf4")
RUNTIMES = "onnxruntime,openvino"
VERB = (sys.executable, "-m", "edgegen")


def adapted(family: str, given: argparse.Namespace, rank: int | None) -> Path:
    """Return the folder of a finished run, trained now unless it exists.

    `rank` 0 trains every weight, at the rate that the family was trained with; None is the family's
    rank.
    """
    out = given.out / f"{family}-{'full' if rank == 0 else 'lora'}"
    if not (out / "reference.safetensors").is_file():
        command = [
            *VERB,
            "finetune",
            family,
            str(out),
            "--data",
            str(given.data),
            "--held-out",
            str(given.held_out),
            "--threads",
            str(given.threads),
            "--patience",
            "99",
            "--looks",
            "4",
        ]
        found = open_base(family).family
        trained_at = next(iter(found.recipes.values()))().rate
        command += [] if rank is None else ["--rank", str(rank), "--rate", str(trained_at)]
        command += ["--resume"] if (out / "run.json").is_file() else []
        batch = found.tuning.batch
        subprocess.run([*command, "--steps", str(given.images // batch)], check=True)
    return out


def quality(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the quality of each family's runs; compared.png, beside the runs, shows what
    they draw.
    """
    print(GOALS)
    blocks: dict[str, np.ndarray] = {}
    for family in given.families:
        lora, full = adapted(family, given, None), adapted(family, given, 0)
        own, other = (json.loads((run / "looks.json").read_text())["last"] for run in (lora, full))
        about, generator = runs.load(lora)
        checkpoint = sum(v.numel() * 4 for v in generator.shipped.state_dict().values())
        base = open_base(family)
        settings = FinetuneSettings(rank=about["finetune"]["rank"])
        plan = FinetunePlan.of(base, _photos(given)[0], choose(settings, None, base))
        moved = {p for objective in plan.generator().objectives() for p in objective.params}
        trained, whole = (
            sum(p.numel() for p in some) for some in (moved, generator.networks.parameters())
        )
        yield {
            "family": family,
            **columns("FD / base", Interval(**own["ratio"])),
            **columns("FD / base, full", Interval(**other["ratio"])),
            "adapter / full": own["adapted"]["FD"]["value"] / other["adapted"]["FD"]["value"],
            "trained": trained / whole,
            "file": (lora / "adapter" / TENSORS).stat().st_size / checkpoint,
            "parity": parity(lora, about, generator),
            "near-copies": own["memory"]["near_copies"],
            "near-copies, full": other["memory"]["near_copies"],
            "novelty": own["memory"]["features"]["ratio"],
            **columns("KID", Interval(**own["adapted"]["KID"])),
            **columns("KID of the base", Interval(**own["base"]["KID"])),
            "images": about["recipe"]["images"],
            "distances": own["what"],
        }
        shown = pictures(lora)
        blocks |= {f"{family}: base": shown["base"], f"{family}: adapted": shown["adapted"]}
    blocks["photos, held out"] = shown["photos"]
    save_png(given.out / "compared.png", comparison(blocks, columns=8, count=16, across=2))


def exported(given: argparse.Namespace) -> Iterator[Row]:
    """Run merge, export --int8 and verify for each family's adapted run, as a user does; verdicts
    are those in the manifest.
    """
    threads = ["--threads", str(given.threads)]
    for family in given.families:
        run, merged = adapted(family, given, None), str(given.out / f"{family}-merged")
        out = given.out / f"{family}-int8"
        subprocess.run([*VERB, "merge", str(run), "-o", merged, "--overwrite"], check=True)
        said = ["--int8", "--runtime", RUNTIMES, "-o", str(out), "--overwrite", *threads]
        code = subprocess.run([*VERB, "export", merged, *said]).returncode
        checked = None if code else subprocess.run([*VERB, "verify", str(out), *threads]).returncode
        place = out.parent / "rejected" / out.name if code else out
        evidence = json.loads((place / "manifest.json").read_text())["evidence"]
        for name, found in evidence["runtimes"].items():
            yield {
                "family": family,
                "runtime": name,
                **columns("FD change", Interval(**found["change"])),
                "verdict": found["verdict"],
                "PSNR dB": found["psnr_db"],
                "speed": found["speed"],
                "pairs": found["images"],
                "features": f"{found['features']} at {found['size']} px",
                "export ended with": code,
                "verify ended with": checked,
            }


def held(given: argparse.Namespace) -> Iterator[Row]:
    """Yield the bytes of weights, gradients and optimizer state between two steps, their share of
    those of every weight in FP32 with Adam, and the peak memory of a process that does nothing
    else.
    """
    train = _photos(given)[0]
    for family in given.families:
        full, peak = _memory(family, train, FinetuneSettings(rank=0))
        yield {"family": family, "trained": "every weight", **_held(full, full), "peak MB": peak}
        for base in BASES:
            settings = FinetuneSettings(precision=base, adam8bit=True)
            found, peak = _memory(family, train, settings)
            what = f"adapters of a base in {base}, 8-bit Adam"
            yield {"family": family, "trained": what, **_held(found, full), "peak MB": peak}


def _held(found: StepMemory, full: StepMemory) -> Row:
    parts = {"linear": (found.linear, full.linear), "rest": (found.rest, full.rest)}
    return {
        **{f"{name}, kB": part.total / 1e3 for name, (part, _) in parts.items()},
        **{
            f"{name} of the whole": part.total / whole.total if whole.total else None
            for name, (part, whole) in parts.items()
        },
    }


def _memory(family: str, train: Photos, settings: FinetuneSettings) -> tuple[StepMemory, float]:
    with get_context("fork").Pool(1) as pool:
        found: tuple[StepMemory, float] = pool.apply(_measured, (family, train, settings))
    return found


def _measured(family: str, train: Photos, settings: FinetuneSettings) -> tuple[StepMemory, float]:
    trainer = _trainer(family, train, settings, STEPS)
    # run all stages, so that each has its gradients and its optimizer's state
    for _ in trainer.run():
        pass
    nets = getattr(trainer.generator, "base", trainer.generator).networks
    return memory(nets, trainer.optimizers), peak_bytes() / 1e6


def speed(given: argparse.Namespace) -> Iterator[Row]:
    """Compare the CPU seconds of a step of this loop with those of peft's model and torch's Adam in
    the shortest possible loop; interleaved.

    Only the first stage is measured if there are several.
    """
    train = _photos(given)[0]
    for family in given.families:
        ours = _trainer(family, train, FinetuneSettings()).run()
        # peft computes a pair beside its layer
        with patch("edgegen.training.adapt.adapted.join", lambda networks: None):
            theirs = _plain(_trainer(family, train, FinetuneSettings()))
        steps: dict[str, Iterator[object]] = {"ours": ours, "plain peft": theirs}
        calls = {name: partial(_next, some) for name, some in steps.items()}
        spent = in_turns(calls, STEPS - WARM_UP, WARM_UP)
        own, plain = (median(some).cpu for some in spent.values())
        yield {
            "family": family,
            "CPU s a step": own,
            "plain peft, CPU s a step": plain,
            "times as fast": plain / own,
        }


def _next(steps: Iterator[object], _: int) -> None:
    next(steps)


def _plain(trainer: Trainer) -> Iterator[None]:
    """Make one step of all objectives that are due in each iteration."""
    adams = [torch.optim.Adam(o.params, lr=1e-3, betas=o.betas) for o in trainer.objectives]
    while True:
        batch = trainer.feed.batch(trainer.step, 0)
        for objective, adam in zip(trainer.objectives, adams, strict=True):
            first, last = trainer.span(objective)
            if not first <= trainer.step < last:
                continue
            adam.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.recipe.precision == "bf16"):
                loss = objective.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        trainer.step += 1
        yield


def targets(given: argparse.Namespace) -> Iterator[Row]:
    """Train short runs that differ in which layers get pairs, each with the largest rank within 5 %
    of the weights.
    """
    train, held = _photos(given)
    network = feature_network("efficientnet-lite0")
    real, seen = (network(part.pixels) for part in (train, held))
    along = small_sample_distance.directions(real, len(held))
    for family in given.families:
        base = open_base(family)
        nets = base.family.build(base.config).networks
        whole = sum(p.numel() for p in nets.parameters())
        layers = _layers(base.family, nets)
        for what, names in _choices(layers).items():
            cost = sum(
                m.weight.shape[0] + m.weight[0].numel()
                for name, m in layers.items()
                if name in names
            )
            tuning = replace(base.family.tuning, targets=tuple(sorted(names)))
            chosen = replace(base, family=replace(base.family, tuning=tuning))
            rank = max(1, int(0.05 * whole / cost))
            plan = FinetunePlan.of(chosen, train, choose(FinetuneSettings(rank=rank), None, base))
            plan = plan.for_images(given.images)
            trainer = taught(Trainer.start(plan.generator(), plan.recipe, train, 0), 100)
            for _ in trainer.run():
                pass
            draw = pipeline(trainer)
            made = network(to_uint8(draw(PERIODIC_EVALUATION.take(EVALUATION_IMAGES))))
            yield {
                "family": family,
                "pairs on": what,
                "rank": rank,
                **columns("FD", small_sample_distance.frechet(made, seen, along).interval()),
                **columns("KID", small_sample_distance.kernel(made, seen).interval()),
                "images": given.images,
                "drawn": EVALUATION_IMAGES,
            }


Layers = Mapping[str, nn.Conv2d | nn.Linear]


def _layers(family: Family, networks: nn.Module) -> Layers:
    """Return the layers that may get pairs."""
    return {
        name: m
        for name, m in networks.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
        and "label" not in name
        and any(fnmatchcase(name, pattern) for pattern in family.tuning.targets)
    }


def _choices(layers: Layers) -> Mapping[str, Set[str]]:
    """Return sets of layer names by their kind."""
    wide = {n for n, m in layers.items() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1}
    return {
        "all": set(layers),
        "3x3 convolutions": wide,
        "1x1 and linear": set(layers) - wide,
    }


def _trainer(family: str, train: Photos, settings: FinetuneSettings, steps: int = 1_500) -> Trainer:
    base = open_base(family)
    plan = FinetunePlan.of(base, train, choose(settings, None, base))
    plan = plan.for_images(steps * plan.recipe.batch)
    torch.manual_seed(0)
    recipe = replace(plan.recipe, warmup=2)
    options = TrainerOptions(eight_bit=plan.choices.adam8bit)
    return taught(Trainer.start(plan.generator(), recipe, train, 0, options), 2)


def _photos(given: argparse.Namespace) -> tuple[Photos, Photos]:
    train, held = split(load(given.data, 32)[0], given.held_out)
    return merge_small_classes(train), held


PARTS: Mapping[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "export": exported,
    "memory": held,
    "speed": speed,
    "targets": targets,
}


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--images", type=int, default=48_000)
    parser.add_argument("--held-out", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--targets", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    part = next((name for name in PARTS if getattr(given, name)), "quality")
    rows = followed(PARTS.get(part, quality)(given))
    seeds = "trainings 0; images: the periodic evaluation's, as edgegen/core/seeds.py has them"
    about = {"images": given.images, "held out": given.held_out, "data": given.data.name}
    report(given.json, "finetune", part, Part(rows, seeds, given.threads, about))


if __name__ == "__main__":
    main()
