"""edgegen finetune: a trained generator to a site's own product photos, as a small adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UsageError
from . import output
from .options import Threads, Weights, cores, need_torch
from .train import EVERY, FEWEST, _counted, _on_bad, _reference, _tell

if TYPE_CHECKING:
    from torch import Tensor

    from ..families import Recipe
    from ..training.data import Photos
    from .base import Base

BASES = ("fp32", "int8", "nf4")
TIMED = 12      # steps that --time is measured on, the first of which do not count
SAFETY = 0.85   # of the time that is planned for steps: looks and the end take the rest


def finetune(
    names: Annotated[list[str], typer.Argument(help="Base (zoo name or run) and, if --out does not say, the run folder.",
                                               metavar="BASE [RUN]")],
    data: Annotated[Path | None, typer.Option(help="Photos: class folders or metadata.jsonl.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The run folder as a flag.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run bit for bit; it knows its settings.")] = False,
    rank: Annotated[int | None, typer.Option(help="Of the adapters; 0 trains every weight instead.", min=0)] = None,
    base: Annotated[str, typer.Option(help="Precision of the frozen base while training: fp32, int8 or nf4.")] = "fp32",
    adam8bit: Annotated[bool, typer.Option("--adam8bit", help="Keep the optimizer's state in 8 bits.")] = False,
    recompute: Annotated[bool, typer.Option("--recompute", help="Less memory, more time: blocks are computed twice.")] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps instead of the family's.", min=1)] = None,
    time: Annotated[str | None, typer.Option(help="As many steps as fit into it: 45m, 2h, 90s.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    rate: Annotated[float | None, typer.Option(help="Adam's learning rate instead of the family's.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the photos that is only looked at.")] = 0.1,
    looks: Annotated[int, typer.Option(help="Times the held-out photos are compared; 0 for none.", min=0)] = 8,
    patience: Annotated[int, typer.Option(help="Looks without improvement before it ends.", min=1)] = 3,
    classes: Annotated[bool, typer.Option("--classes/--no-classes", help="Whether sub-folders are classes to draw by.")] = True,
    seed: Annotated[int, typer.Option(help="Of order, noise and adapters.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    on_bad: Annotated[str, typer.Option(help="What a photo that cannot be read does: skip (and name it) or fail.")] = "skip",
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Adapt a generator to your photos; the adapter is a few hundred kilobytes, the base stays as it is."""
    folder = _folder(names, out)
    if data is None:
        raise UsageError("E-USAGE", "fine-tuning needs --data")
    if base not in BASES:
        raise UsageError("E-USAGE", f"--base must be fp32, int8 or nf4, got {base!r}")
    if (steps is not None) + (time is not None) > 1:
        raise UsageError("E-USAGE", "give --steps or --time")
    need_torch()
    import torch

    from ..evidence.features import feature_network
    from ..training.device import device_of
    from ..training.run import train as train_on
    from ..training.split import split
    from .base import open_base
    from .looks import Looks

    device_of(device)
    torch.set_num_threads(threads or cores())
    found = open_base(names[0])
    options = Options(base, rank, adam8bit, recompute, held_out, classes, looks, patience, seed, device)
    photos = _photos(data, found.config.size, on_bad, classes)
    network = feature_network("inception-v3" if weights else "efficientnet-lite0", weights)
    train, held = split(photos, held_out) if looks else (photos, photos)
    tuning = found.family.tuning
    recipe = replace(_recipe(found, photos), batch=min(batch or tuning.batch, len(train)), rate=rate or tuning.rate)
    plan = Plan.of(found, recipe, options)
    recorded = _recorded_images(folder) if resume else None
    images = recorded or (steps * recipe.batch if steps else _within(time, plan, train) if time else tuning.images)
    plan = replace(plan, recipe=replace(recipe, images=images))
    watch = Looks(folder, plan, train, held, network, looks, patience) if looks else None
    with output.progress(f"adapting {found.name}", images, "images") as advance:
        count = _counted(advance)

        def after(trainer: Any, report: dict[str, float]) -> None:
            count(trainer, report)
            if watch is not None:
                watch.after(trainer)

        generator = plan.generator()
        left = train_on(plan.settings(), train, folder, resume, EVERY, after, generator=generator,
                        finish=plan.finish(generator, watch) if plan.rank else None)
    with output.progress("reference statistics", len(photos)) as advance:
        _reference(photos, folder / "reference.safetensors", weights, advance)
    output.result("finetune", {"out": str(folder), "adapter": str(left), "images": images, **(watch.to_json() if watch else {})})
    print(f"adapted: {folder}  next: edgegen generate {folder} -o site.png, edgegen export {folder} --int8 -o out/")


@dataclass(frozen=True)
class Options:
    """How to adapt, as the command line says."""

    base: str
    rank: int | None
    adam8bit: bool
    recompute: bool
    held_out: float
    classes: bool
    looks: int
    patience: int
    seed: int
    device: str


@dataclass(frozen=True)
class Plan:
    """A fine-tuning, ready to run: master holds the base's tensors for the site's classes."""

    base: Base
    recipe: Recipe
    options: Options
    master: dict[str, Tensor]
    digest: str

    @classmethod
    def of(cls, base: Base, recipe: Recipe, options: Options) -> Plan:
        from ..training.adapt import site

        master = site.fitted(base.family, recipe.config, base.tensors, base.config.classes, options.seed, base.path)
        return cls(base, recipe, options, master, site.digest(master))

    @property
    def rank(self) -> int:
        return self.base.family.tuning.rank if self.options.rank is None else self.options.rank

    def settings(self) -> Any:
        """What the run is held to when it resumes."""
        from ..training.run import Settings

        o = self.options
        if not self.rank:
            return Settings(self.base.family.name, "finetune", self.recipe, o.seed, o.device, init=self.digest)
        adapt = {"base": self.base.name, "origin_sha256": self.base.sha256, "base_sha256": self.digest, "rank": self.rank,
                 "precision": o.base, "adam8bit": o.adam8bit, "recompute": o.recompute, "held_out": o.held_out,
                 "looks": o.looks, "patience": o.patience}
        return Settings(self.base.family.name, "finetune", self.recipe, o.seed, o.device, adapt=adapt)

    def generator(self) -> Any:
        """What trains: the base with adapters, or all of it."""
        import torch

        from ..training.adapt import site
        from ..training.order import mix

        if not self.rank:
            return site.plain(self.base.family, self.recipe.config, self.master)
        from ..training.adapt.adapted import Adapted, targets
        from ..training.adapt.files import Lora

        plain = site.plain(self.base.family, self.recipe.config, self.master)
        pairs, whole = targets(plain.networks, self.base.family.tuning)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.options.seed, 0, "adapter"))
            return Adapted(self.base.family, self.recipe.config, self.master, Lora(self.rank, float(self.rank), pairs, whole))

    def finish(self, generator: Any, watch: Any) -> Any:
        """Writes what an adapted run leaves: the best look's adapter, or the last averages."""
        def left(trainer: Any, out: Path) -> Path:
            from ..training.adapt import site
            from ..training.record import averages_in

            site.write_base(out, self.master)
            if watch is None or not watch.kept:
                with averages_in(trainer):
                    site.write(out, generator.adapter(self.digest), generator.measured())
            return out / site.ADAPTER

        return left


def _folder(names: list[str], out: Path | None) -> Path:
    if len(names) > 2 or (len(names) == 2) == (out is not None):
        raise UsageError("E-USAGE", "name the base, and the run folder once: `edgegen finetune BASE RUN --data PHOTOS`")
    return out or Path(names[1])


def _photos(data: Path, size: int, on_bad: str, classes: bool) -> Photos:
    from ..training.data import Photos, load

    if on_bad not in ("skip", "fail"):
        raise UsageError("E-USAGE", f"--on-bad must be skip or fail, got {on_bad!r}")
    with output.progress("reading photos") as advance:
        photos, report = load(data, size, on_bad=_on_bad(on_bad), progress=lambda _, __: advance(1))
    _tell(report)
    if len(photos) < FEWEST:
        raise InputError("E-DATA-TOO-FEW", f"{len(photos)} photos, {FEWEST} are needed", path=data)
    return photos if classes else Photos(photos.pixels, photos.labels * 0, ())


def _recipe(base: Base, photos: Photos) -> Recipe:
    """The family's way to adapt, for the photos' classes; a base with classes keeps one at least."""
    from ..families import Recipe

    count = max(1, len(photos.classes)) if base.config.classes else 0
    t = base.family.tuning
    config = replace(base.config, classes=count)
    return Recipe(config, t.images, t.batch, t.rate, t.warmup, t.ema, t.precision)


def _recorded_images(folder: Path) -> int | None:
    from ..training.run import Recorded

    return Recorded.of(folder).images


def _within(text: str, plan: Plan, photos: Photos) -> int:
    """Images that can be seen in that time on this machine as it is now, measured on a few steps that are thrown away."""
    import time

    from ..training.loop import Trainer

    seconds = _seconds(text)
    trainer = Trainer.start(plan.generator(), replace(plan.recipe, images=plan.recipe.batch * TIMED), photos, plan.options.seed)
    marks = [time.monotonic()]
    for _ in trainer.run():
        marks.append(time.monotonic())
    steps = max(1, math.floor(SAFETY * seconds * (TIMED - 2) / (marks[-1] - marks[2])))
    output.note(f"{steps} steps of {plan.recipe.batch} photos fit into {text}")
    return steps * plan.recipe.batch


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError("E-USAGE", f"--time must be such as 90s, 45m or 2h, got {text!r}")
    return value
