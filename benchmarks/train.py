"""Training speed and memory of each family against a plain reference on the same machine, in one
run.

    python benchmarks/train.py
        16 steps a round hold every lazy term once; --steps 1 for a first look

The reference is what diffusers' own training example does: UNet2DModel, DDPMScheduler, mean squared
error of the noise, clipped gradients, AdamW, EMAModel. Its widths are chosen for each family so
that one of its steps has about the multiply-adds of one of edgegen's steps (all objectives; terms
that are due every few steps are timed, but their multiply-adds are not counted). Families that are
no denoisers are held against the same reference per multiply-add: a GAN's step is another thing,
and the table says so.

Time: CPU time of this process, rounds of both sides interleaved, median over rounds. Memory: growth
of the resident set's peak over its start, each side in a process of its own. Same batch, size,
precision and threads; photos are noise in memory.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgegen.core.offline import offline
from edgegen.families import FAMILIES, Judged, Recipe, family
from edgegen.training.data import Photos
from edgegen.training.loop import Trainer
from edgegen.training.size_estimate import counted, measure

DENOISERS = {"cas-dm", "dkgm", "lcd"}
WIDTHS = [(a, b, c) for a, b, c in itertools.product(range(16, 129, 16), repeat=3) if a <= b <= c]


def photos(recipe: Recipe) -> Photos:
    rng, classes = np.random.default_rng(0), recipe.config.classes
    pixels = rng.integers(
        0, 256, (4 * recipe.batch, recipe.config.size, recipe.config.size, 3), np.uint8
    )
    names = tuple(str(k) for k in range(classes))
    return Photos(pixels, np.arange(len(pixels), dtype=np.int64) % max(1, classes), names)


def ours(name: str, recipe: Recipe) -> Iterator[object]:
    """One training step an iteration."""
    torch.manual_seed(0)
    trainer = Trainer.start(
        family(name).build(recipe.config), replace(recipe, images=10**9), photos(recipe), 0
    )
    if isinstance(trainer.generator, Judged) and trainer.generator.judge is not None:
        trainer.generator.teach(trainer.lessons(2))  # what it has learnt takes no other time to ask
    return trainer.run()


def unet(widths: tuple[int, ...], size: int) -> Any:
    from diffusers import UNet2DModel

    count = len(widths)
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=widths,
        norm_num_groups=16,
        down_block_types=("DownBlock2D",) * count,
        up_block_types=("UpBlock2D",) * count,
    )


def macs_of(widths: tuple[int, ...], size: int) -> int:
    """Of one image's forward pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad(), counted() as total:
        unet(widths, size)(torch.zeros(1, 3, size, size), torch.ones(1))
    return total[0]


def fitting(target: int, size: int) -> tuple[int, ...]:
    """The reference's widths with the multiply-adds nearest to `target`."""
    return min(WIDTHS, key=lambda widths: abs(macs_of(widths, size) - target))


def reference(widths: tuple[int, ...], recipe: Recipe) -> Iterator[object]:
    """One step of the DDPM loop an iteration."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    net, pixels = unet(widths, recipe.config.size), photos(recipe).pixels
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    average = EMAModel(net.parameters(), decay=recipe.ema)
    while True:
        images = torch.from_numpy(
            pixels[np.random.default_rng().integers(0, len(pixels), recipe.batch)]
        )
        images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        noise, t = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            predicted = net(scheduler.add_noise(images, noise, t), t, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(net.parameters())
        yield loss.item()


def seconds(steps: Iterator[object], count: int) -> float:
    """CPU time of one step, mean of `count`."""
    start = time.process_time()
    for _ in range(count):
        next(steps)
    return (time.process_time() - start) / count


def resident(word: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(word)[2].split()[0]) * 1024


def peak(side: str, name: str, recipe_name: str, batch: int, widths: tuple[int, ...]) -> float:
    """MB that a few steps take beyond the imports, in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--child",
        side,
        "--families",
        name,
        "--recipe",
        recipe_name,
        "--batch",
        str(batch),
        "--widths",
        ",".join(map(str, widths)),
    ]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def child(side: str, name: str, recipe: Recipe, widths: tuple[int, ...]) -> None:
    import diffusers.training_utils  # both sides start with the same imports

    assert diffusers
    # what torch and its threads take at the first use
    next(reference((16,), replace(recipe, batch=2)))
    before = resident("VmRSS:")
    sides: dict[str, Callable[[], Iterator[object]]] = {
        "ours": lambda: ours(name, recipe),
        "reference": lambda: reference(widths, recipe),
    }
    for _ in itertools.islice(sides[side](), 3):
        pass
    print((resident("VmHWM:") - before) / 1e6)


def compare(name: str, recipe_name: str, recipe: Recipe, rounds: int, count: int) -> list[str]:
    size = measure(family(name).build(recipe.config), recipe)
    target = sum(size.training_macs.values())
    widths = fitting(target, recipe.config.size)
    theirs = macs_of(widths, recipe.config.size)
    sides = {"ours": ours(name, recipe), "reference": reference(widths, recipe)}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for steps in sides.values():
        next(steps)
    for _ in range(rounds):
        for side, steps in sides.items():
            times[side].append(seconds(steps, count))
    speed = {side: recipe.batch / statistics.median(found) for side, found in times.items()}
    ratios = [b / a for a, b in zip(times["ours"], times["reference"], strict=True)]
    ratio, per_mac = statistics.median(ratios), statistics.median(ratios) * target / theirs
    memory = {side: peak(side, name, recipe_name, recipe.batch, widths) for side in sides}
    params = sum(p.numel() for p in unet(widths, recipe.config.size).parameters())
    verdict = ratio if name in DENOISERS else per_mac
    return [
        name,
        f"{sum(size.parameters.values()) / 1e6:.2f} / {params / 1e6:.2f}",
        f"{target / 1e6:.0f} / {theirs / 1e6:.0f}",
        f"{speed['ours']:.1f} / {speed['reference']:.1f}",
        f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{per_mac:.2f}",
        f"{memory['ours']:.0f} / {memory['reference']:.0f}",
        ("not slower" if verdict >= 1 else "SLOWER") + ("" if name in DENOISERS else " per MAC"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--recipe", default="photos32")
    parser.add_argument("--batch", type=int, default=0, help="instead of the recipe's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=16, help="of each side a round")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--widths", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    offline()
    torch.set_num_threads(1)
    rows = []
    for name in given.families.split(","):
        recipe = family(name).recipes[given.recipe]()
        recipe = replace(recipe, batch=given.batch or recipe.batch)
        if given.child:
            return child(given.child, name, recipe, tuple(map(int, given.widths.split(","))))
        rows.append((recipe, compare(name, given.recipe, recipe, given.rounds, given.steps)))
        print(f"{name}: done", file=sys.stderr, flush=True)
    import diffusers

    print(
        f"edgegen / diffusers, recipe {given.recipe}, n = {given.rounds} interleaved rounds of "
        f"{given.steps} steps, 1 thread, "
        f"CPU time; torch {torch.__version__}, diffusers {diffusers.__version__}, Python "
        f"{platform.python_version()}, "
        f"{platform.machine()}"
    )
    columns = [
        "family",
        "M parameters",
        "M MACs/image",
        "images/s",
        "speed ratio (range)",
        "per MAC",
        "peak MB",
        "verdict",
        "batch",
    ]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for recipe, row in rows:
        print("| " + " | ".join([*row, f"{recipe.batch}, {recipe.precision}"]) + " |")
    print(
        "Parameters and MACs: all trained networks, one image through all losses. Families without "
        "a noise prediction loss are "
        "compared per MAC, since no reference of the same kind is run; their ratio is for the "
        "record."
    )


if __name__ == "__main__":
    main()
