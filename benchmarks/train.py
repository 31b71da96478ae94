"""The speed and memory of each family's training are compared with a plain reference on the same
machine, in one run.

    python -m benchmarks train
        16 steps a round hold every lazy term once; --steps 1 for a first look

The reference is what diffusers' own training example does: UNet2DModel, DDPMScheduler, mean squared
error of the noise, clipped gradients, AdamW, EMAModel. Its widths are chosen for each family so
that one of its steps has about the multiply-adds of one of edgegen's steps (all objectives; terms
that are due every few steps are timed, but their multiply-adds are not counted). Families that are
no denoisers are held against the same reference per multiply-add: a GAN's step is another thing,
and the table says so.

Time: CPU time of this process, rounds of both sides interleaved, median over rounds. Memory: growth
of the resident set's peak over its start, each side in a process of its own. Same batch, size,
precision and threads; photos are noise in memory. Parameters and MACs are those of all trained
networks, one image through all losses.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import columns, in_turns, median, said_by
from _result import Part, Row, arguments_of, followed, report
from _teaching import taught

from edgegen.core.offline import offline
from edgegen.core.verdict import Interval
from edgegen.families import FAMILIES, Recipe, family
from edgegen.machine.resident import peak_bytes
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
    """Make one training step in each iteration."""
    torch.manual_seed(0)
    trainer = Trainer.start(
        family(name).build(recipe.config), replace(recipe, images=10**9), photos(recipe), 0
    )
    return taught(trainer, 2).run()  # a judge takes the same time however much it has learnt


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
    """Return the multiply-adds of one image's forward pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad(), counted() as total:
        unet(widths, size)(torch.zeros(1, 3, size, size), torch.ones(1))
    return total[0]


def fitting(target: int, size: int) -> tuple[int, ...]:
    """Return the reference's widths whose multiply-adds are closest to `target`."""
    return min(WIDTHS, key=lambda widths: abs(macs_of(widths, size) - target))


def reference(widths: tuple[int, ...], recipe: Recipe) -> Iterator[object]:
    """Make one step of the DDPM loop in each iteration."""
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


def walk(steps: Iterator[object], count: int, _: int = 0) -> None:
    for _step in itertools.islice(steps, count):
        pass


def resident() -> int:
    """Return the bytes that this process holds now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


def peak(side: str, name: str, given: argparse.Namespace, widths: tuple[int, ...]) -> float:
    """Return the MB that a few steps take beyond the imports, in a fresh process."""
    of = ("--child", side, "--families", name, "--widths", ",".join(map(str, widths)))
    return float(said_by(__file__, *of, "--recipe", given.recipe, "--batch", str(given.batch)))


def child(side: str, name: str, recipe: Recipe, widths: tuple[int, ...]) -> None:
    import diffusers.training_utils  # both sides start with the same imports

    assert diffusers
    # keeps what torch allocates at its first use out of the measurement
    next(reference((16,), replace(recipe, batch=2)))
    before = resident()
    sides: dict[str, Callable[[], Iterator[object]]] = {
        "ours": lambda: ours(name, recipe),
        "reference": lambda: reference(widths, recipe),
    }
    walk(sides[side](), 3)
    print((peak_bytes() - before) / 1e6)


def compare(name: str, recipe: Recipe, given: argparse.Namespace) -> Row:
    size = measure(family(name).build(recipe.config), recipe)
    target = sum(size.training_macs.values())
    widths = fitting(target, recipe.config.size)
    theirs = macs_of(widths, recipe.config.size)
    sides = {"edgegen": ours(name, recipe), "diffusers": reference(widths, recipe)}
    for steps in sides.values():
        next(steps)
    calls = {side: partial(walk, steps, given.steps) for side, steps in sides.items()}
    spent = in_turns(calls, given.rounds)
    speed = {side: recipe.batch * given.steps / median(s).cpu for side, s in spent.items()}
    ratios = [b.cpu / a.cpu for a, b in zip(spent["edgegen"], spent["diffusers"], strict=True)]
    ratio = statistics.median(ratios)
    per_mac = ratio * target / theirs
    is_alike = name in DENOISERS
    params = sum(p.numel() for p in unet(widths, recipe.config.size).parameters())
    return {
        "family": name,
        "M parameters": sum(size.parameters.values()) / 1e6,
        "diffusers, M parameters": params / 1e6,
        "M MACs/image": target / 1e6,
        "diffusers, M MACs/image": theirs / 1e6,
        "images/s": speed["edgegen"],
        "diffusers, images/s": speed["diffusers"],
        **columns("speed ratio", Interval(ratio, min(ratios), max(ratios))),
        "per MAC": per_mac,
        "peak MB": peak("ours", name, given, widths),
        "diffusers, peak MB": peak("reference", name, given, widths),
        "verdict": ("not slower" if (ratio if is_alike else per_mac) >= 1 else "SLOWER")
        + ("" if is_alike else " per MAC"),
        "batch": recipe.batch,
        "precision": recipe.precision,
    }


def recipe_of(name: str, given: argparse.Namespace) -> Recipe:
    recipe: Recipe = family(name).recipes[given.recipe]()
    return replace(recipe, batch=given.batch or recipe.batch)


def main() -> None:
    parser = arguments_of(__doc__)
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
    names = given.families.split(",")
    if given.child:
        widths = tuple(map(int, given.widths.split(",")))
        child(given.child, names[0], recipe_of(names[0], given), widths)
        return
    rows = followed(compare(name, recipe_of(name, given), given) for name in names)
    about = {"recipe": given.recipe, "rounds": given.rounds, "steps a round": given.steps}
    report(given.json, "train", given.recipe, Part(rows, "trainings 0", 1, about))


if __name__ == "__main__":
    main()
