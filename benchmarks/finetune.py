"""Fine-tuning on the furniture renders, family by family: adapters against the base and against
full fine-tuning.

    python benchmarks/finetune.py --data ~/.cache/edgegen/furniture --images 48000 \
        --out runs/finetune
    python benchmarks/finetune.py --data ... --out runs/finetune --export
        those runs merged, exported in INT8 and verified
    python benchmarks/finetune.py --data ... --memory
        only what a step holds, base by base
    python benchmarks/finetune.py --data ... --speed
        only steps a second, against plain peft
    python benchmarks/finetune.py --data ... --targets --images 12800
        where pairs go, at equal numbers of trained weights

Distances: squared Frechet distance and KID over EfficientNet-Lite0 features at 128 px, 512 images
against the held-out photos, as `edgegen finetune` prints them. Runs that are there are read, not
run again: a long one can be continued with the verb.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from edgegen.core.images import save_png, to_uint8
from edgegen.core.seeds import PERIODIC_EVALUATION
from edgegen.core.verdict import Interval
from edgegen.evidence import small_sample_distance
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.timeline import comparison
from edgegen.families import FAMILIES, Judged
from edgegen.machine.resident import peak_bytes
from edgegen.training import run as runs
from edgegen.training.adapt.files import TENSORS
from edgegen.training.adapt.memory import Footprint, StepMemory, memory
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
STEPS = 12  # of a measurement of memory or speed
BASES = ("fp32", "int8", "nf4")
RUNTIMES = "onnxruntime,openvino"
VERB = (sys.executable, "-m", "edgegen")


def adapted(family: str, given: argparse.Namespace, rank: int | None) -> Path:
    """A finished run; rank: 0 trains every weight, at the rate the family was trained with; None is
    the family's.
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


def quality(given: argparse.Namespace) -> None:
    print(GOALS)
    blocks: dict[str, np.ndarray] = {}
    for family in given.families:
        lora, full = adapted(family, given, None), adapted(family, given, 0)
        words = [json.loads((run / "looks.json").read_text())["last"] for run in (lora, full)]
        about, generator = runs.load(lora)
        ratios = [Interval(**word["ratio"]) for word in words]
        distances = [word["adapted"]["FD"]["value"] for word in words]
        checkpoint = sum(v.numel() * 4 for v in generator.shipped.state_dict().values())
        base = open_base(family)
        settings = FinetuneSettings(rank=about["finetune"]["rank"])
        plan = FinetunePlan.of(base, _photos(given)[0], choose(settings, None, base))
        moved = {p for objective in plan.generator().objectives() for p in objective.params}
        trained, whole = (
            sum(p.numel() for p in some) for some in (moved, generator.networks.parameters())
        )
        print(
            f"{family}: FD / base {_said(ratios[0])} (full {_said(ratios[1])}), adapter / full "
            f"{distances[0] / distances[1]:.2f}, trained {trained / whole:.1%}, file "
            f"{(lora / 'adapter' / TENSORS).stat().st_size / checkpoint:.1%}, parity "
            f"{parity(lora, about, generator):.1e}, "
            f"near-copies {words[0]['memory']['near_copies']} of 512 (full "
            f"{words[1]['memory']['near_copies']}), novelty "
            f"{words[0]['memory']['features']['ratio']:.2f}, KID "
            f"{_said(Interval(**words[0]['adapted']['KID']))} from "
            f"{_said(Interval(**words[0]['base']['KID']))}, {about['recipe']['images']} images",
            flush=True,
        )
        shown = pictures(lora)
        blocks |= {f"{family}: base": shown["base"], f"{family}: adapted": shown["adapted"]}
    print(words[0]["what"])
    blocks["photos, held out"] = shown["photos"]
    save_png(given.out / "compared.png", comparison(blocks, columns=8, count=16, across=2))


def exported(given: argparse.Namespace) -> None:
    """Merge, export --int8 and verify of each family's adapted run, as a user calls them; verdicts
    as the manifest has them.
    """
    for family in given.families:
        run, merged, out = (
            adapted(family, given, None),
            given.out / f"{family}-merged",
            given.out / f"{family}-int8",
        )
        threads = ["--threads", str(given.threads)]
        subprocess.run([*VERB, "merge", str(run), "-o", str(merged), "--overwrite"], check=True)
        code = subprocess.run(
            [
                *VERB,
                "export",
                str(merged),
                "--int8",
                "--runtime",
                RUNTIMES,
                "-o",
                str(out),
                "--overwrite",
                *threads,
            ]
        ).returncode
        place = out.parent / "rejected" / out.name if code else out
        for name, found in json.loads((place / "manifest.json").read_text())["evidence"][
            "runtimes"
        ].items():
            change = found["change"]
            print(
                f"{family} on {name}: FD change {change['value']:+.2%} ({change['low']:+.2%} to "
                f"{change['high']:+.2%}), "
                f"{found['verdict']}, PSNR {found['psnr_db']:.1f} dB, speed {found['speed']:.2f} "
                f"x, {found['images']} pairs, "
                f"{found['features']} at {found['size']} px"
            )
        checked = (
            "not run" if code else subprocess.run([*VERB, "verify", str(out), *threads]).returncode
        )
        print(f"{family}: export ended with {code}, verify with {checked}", flush=True)


def held(given: argparse.Namespace) -> None:
    """Bytes of weights, gradients and optimizer state between two steps; peak memory of a process
    that does nothing else.
    """
    train = _photos(given)[0]
    for family in given.families:
        full, peak = _memory(family, train, FinetuneSettings(rank=0))
        print(
            f"{family}: every weight in FP32 with Adam: linear {full.linear.total / 1e3:.0f} kB, "
            "rest "
            f"{full.rest.total / 1e3:.0f} kB; peak of the process {peak:.0f} MB"
        )
        for base in BASES:
            found, peak = _memory(family, train, FinetuneSettings(precision=base, adam8bit=True))
            print(
                f"  {base} base, adapters, 8-bit Adam: linear {_share(found.linear, full.linear)}, "
                "rest "
                f"{_share(found.rest, full.rest)}; peak {peak:.0f} MB",
                flush=True,
            )


def _memory(family: str, train: Photos, settings: FinetuneSettings) -> tuple[StepMemory, float]:
    with get_context("fork").Pool(1) as pool:
        found: tuple[StepMemory, float] = pool.apply(_measured, (family, train, settings))
    return found


def _measured(family: str, train: Photos, settings: FinetuneSettings) -> tuple[StepMemory, float]:
    trainer = _trainer(family, train, settings, STEPS)
    # through all stages, so that each has its gradients and its optimizer's state
    for _ in trainer.run():
        pass
    nets = getattr(trainer.generator, "base", trainer.generator).networks
    return memory(nets, trainer.optimizers), peak_bytes() / 1e6


def speed(given: argparse.Namespace) -> None:
    """CPU seconds a step of this loop, and of peft's model with torch's Adam in the shortest loop
    there is; interleaved.

    Of the first stage, where there are several.
    """
    train = _photos(given)[0]
    for family in given.families:
        ours = _trainer(family, train, FinetuneSettings())
        # peft runs a pair beside its layer
        with patch("edgegen.training.adapt.adapted.join", lambda networks: None):
            theirs = _trainer(family, train, FinetuneSettings())
        times: dict[str, list[float]] = {"ours": [], "plain peft": []}
        adams = [torch.optim.Adam(o.params, lr=1e-3, betas=o.betas) for o in theirs.objectives]
        steps = ours.run()
        for _ in range(STEPS):
            start = time.process_time()
            next(steps)
            times["ours"].append(time.process_time() - start)
            start = time.process_time()
            active = [
                k
                for k, o in enumerate(theirs.objectives)
                if theirs.span(o)[0] <= theirs.step < theirs.span(o)[1]
            ]
            batch = theirs.feed.batch(theirs.step, 0)
            for k in active:
                adams[k].zero_grad()
                with torch.autocast(
                    "cpu", torch.bfloat16, enabled=theirs.recipe.precision == "bf16"
                ):
                    loss = theirs.objectives[k].loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                adams[k].step()
            theirs.step += 1
            times["plain peft"].append(time.process_time() - start)
        middle = {name: sorted(found[2:])[len(found[2:]) // 2] for name, found in times.items()}
        print(
            f"{family}: {middle['ours']:.3f} CPU s a step, plain peft {middle['plain peft']:.3f}: "
            f"{middle['plain peft'] / middle['ours']:.2f} x",
            flush=True,
        )


def targets(given: argparse.Namespace) -> None:
    """Short runs that differ in which layers get pairs, each of the largest rank within 5 % of the
    weights.
    """
    train, held = _photos(given)
    network = feature_network("efficientnet-lite0")
    real, seen = (_features(network, part.pixels) for part in (train, held))
    along = small_sample_distance.directions(real, len(held))
    for family in given.families:
        base = open_base(family)
        nets = base.family.build(base.config).networks
        whole = sum(p.numel() for p in nets.parameters())
        layers = {
            name: m
            for name, m in nets.named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear)
            and "label" not in name
            and any(fnmatchcase(name, pattern) for pattern in base.family.tuning.targets)
        }
        wide = {
            name for name, m in layers.items() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1
        }
        for what, names in (
            ("all", set(layers)),
            ("3x3 convolutions", wide),
            ("1x1 and linear", set(layers) - wide),
        ):
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
            trainer = Trainer.start(plan.generator(), plan.recipe, train, 0)
            if isinstance(trainer.generator, Judged) and trainer.generator.judge is not None:
                trainer.generator.teach(trainer.lessons(100))
            for _ in trainer.run():
                pass
            draw = pipeline(trainer)
            made = _features(
                network,
                np.concatenate(
                    [
                        to_uint8(draw(PERIODIC_EVALUATION.take(64, k)))
                        for k in range(0, EVALUATION_IMAGES, 64)
                    ]
                ),
            )
            print(
                f"{family}, {what}: rank {rank}, FD "
                f"{_said(small_sample_distance.frechet(made, seen, along).interval())}, "
                f"KID {_said(small_sample_distance.kernel(made, seen).interval())}, "
                f"{given.images} images, {EVALUATION_IMAGES} drawn",
                flush=True,
            )


def _features(network: FeatureNetwork, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([network(pixels[k : k + 64]) for k in range(0, len(pixels), 64)])


def _trainer(family: str, train: Photos, settings: FinetuneSettings, steps: int = 1_500) -> Trainer:
    base = open_base(family)
    plan = FinetunePlan.of(base, train, choose(settings, None, base))
    plan = plan.for_images(steps * plan.recipe.batch)
    torch.manual_seed(0)
    recipe = replace(plan.recipe, warmup=2)
    options = TrainerOptions(eight_bit=plan.choices.adam8bit)
    trainer = Trainer.start(plan.generator(), recipe, train, 0, options)
    if isinstance(trainer.generator, Judged) and trainer.generator.judge is not None:
        trainer.generator.teach(trainer.lessons(2))
    return trainer


def _photos(given: argparse.Namespace) -> tuple[Photos, Photos]:
    train, held = split(load(given.data, 32)[0], given.held_out)
    return merge_small_classes(train), held


def _share(a: Footprint, b: Footprint) -> str:
    return f"{a.total / 1e3:.0f} kB ({a.total / b.total:.2f} x)" if b.total else "none"


def _said(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parts = {"export": exported, "memory": held, "speed": speed, "targets": targets}
    next((part for name, part in parts.items() if getattr(given, name)), quality)(given)


if __name__ == "__main__":
    main()
