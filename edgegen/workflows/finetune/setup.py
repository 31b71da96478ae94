"""How one fine-tuning is set up: from flags, or from the run it resumes, to what trains."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ...cli import output
from ...cli.options import fit_of, hex_of
from ...core.files import read_json
from ...errors import InputError, UsageError
from ...training.adapt import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from ...families import Recipe
    from ...training.data import Photos
    from ...training.run import Settings
    from .base import Base

KINDS: tuple[Kind, ...] = get_args(Kind)
SHARES = tuple(k / 20 for k in range(2, 11))  # 0.1 to 0.5
SMALL = 8  # photos of a class that is learned on its own
TIMED = 40  # steps of the short run that --time is measured on
SAFETY = 0.85  # of the time that is planned for steps: looks and the end take the rest


@dataclass(frozen=True)
class Options:
    """Of a run; run.json holds them, and a resumed run is held to them."""

    size: int  # pixels a side, of photos and images
    rank: int  # 0: every weight trains, there is no adapter
    precision: Kind  # of the frozen base while it trains
    adam8bit: bool
    recompute: bool
    images: int | None  # None: the family's
    batch: int | None
    rate: float | None
    held_out: float | None  # None: the smallest of SHARES that holds out enough
    looks: int
    patience: int
    classes: bool
    seed: int
    device: str
    fit: str
    background: str

    def __post_init__(self) -> None:
        if not self.rank and (self.precision != "fp32" or self.recompute):
            raise UsageError(
                "E-USAGE", "--rank 0 trains every weight: --base and --recompute are for adapters"
            )
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise UsageError(
                "E-USAGE", f"--held-out must be above 0 and below 1, got {self.held_out}"
            )
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError("E-USAGE", f"--rate must be above 0, got {self.rate}")


DEFAULTS = {
    "precision": "fp32",
    "adam8bit": False,
    "recompute": False,
    "images": None,
    "batch": None,
    "rate": None,
    "held_out": None,
    "looks": 8,
    "patience": 3,
    "classes": True,
    "seed": 0,
    "device": "cpu",
}


def options(given: Mapping[str, Any], run: Path | None, base: Base) -> Options:
    """What is given; else what the run in `run` was started with; else the defaults, or the base's.
    InputError if damaged.
    """
    from ...training.checkpoint import parse

    before: Any = {}
    if run is not None and (run / "run.json").is_file():
        about = read_json(run / "run.json")
        before = about.get("finetune") if isinstance(about, dict) else None
        if not isinstance(before, dict):
            raise InputError("E-RUN", "not a run of `edgegen finetune`", path=run / "run.json")
    found: dict[str, Any] = {
        **DEFAULTS,
        "size": base.config.size,
        "rank": base.family.tuning.rank,
        "fit": fit_of(None),
        "background": hex_of(None),
    }
    for source in (before, given):
        found |= {name: value for name, value in source.items() if value is not None}
    chosen = parse(Options, found, run / "run.json" if run is not None else Path())
    # here, since it changes other settings that would be named first
    if chosen.size != before.get("size", chosen.size):
        raise UsageError(
            "E-RESUME-MISMATCH",
            "the run was started with another size",
            path=run,
            hint=f"then {before['size']}, now {chosen.size}",
        )
    return chosen


def gathered(photos: Photos) -> Photos:
    """The photos with their small classes as one, "other", which takes the next larger ones until
    it has SMALL photos; told.
    """
    import numpy as np

    from ...training.data import Photos

    counts = np.bincount(photos.labels, minlength=len(photos.classes))
    order = np.argsort(counts, kind="stable")
    together = int((counts < SMALL).sum())
    while 0 < together < len(order) and counts[order[:together]].sum() < SMALL:
        together += 1
    if not together or len(photos.classes) < 2:
        return photos
    few, kept = order[:together], sorted(order[together:].tolist())
    number = np.full(len(counts), len(kept))
    number[kept] = np.arange(len(kept))
    names = tuple(photos.classes[k] for k in kept)
    output.note(
        f"W-CLASS-SMALL: {together} of {len(counts)} classes have few photos and are drawn as one, "
        f"{sum(int(counts[k]) for k in few)} together"
    )
    return Photos(photos.pixels, number[photos.labels], (*names, "other"))


def apart(photos: Photos, options: Options) -> tuple[Options, Photos, Photos]:
    """Training photos and held-out ones, near-copies on one side; the options name the share.
    InputError for too few photos.
    """
    from ...evidence.small_sample_distance import LEAST
    from ...training.split import refuse_leak, split

    shares = SHARES if options.held_out is None else (options.held_out,)
    for share in shares:
        try:
            train, held = split(photos, share)
        except InputError:
            continue
        if len(held) >= LEAST and len(train) >= LEAST:
            refuse_leak(train, held)
            return replace(options, held_out=share), gathered(train), held
    raise InputError(
        "E-DATA-TOO-FEW",
        f"of {len(photos)} photos, {LEAST} cannot be held out with a share of {shares[-1]:g}",
        hint="add photos" + ("" if options.held_out is None else ", or hold out another share"),
    )


@dataclass(frozen=True)
class Plan:
    """A fine-tuning, ready to run: master holds the base's tensors for the site's classes."""

    base: Base
    recipe: Recipe
    options: Options
    master: dict[str, Tensor]
    digest: str

    @classmethod
    def of(cls, base: Base, photos: Photos, options: Options) -> Plan:
        """For these photos: their classes, and batches no larger than they are. InputError for a
        base that does not fit.
        """
        from ...families import Recipe
        from ...training.adapt import site

        count = max(1, len(photos.classes)) if base.config.classes else 0
        t = base.family.tuning
        batch = min(options.batch or t.batch, len(photos))
        recipe = Recipe(
            replace(base.config, classes=count),
            options.images or t.images,
            batch,
            options.rate or t.rate,
            t.warmup,
            t.ema,
            t.precision,
        )
        master = site.fitted(
            base.family, recipe.config, base.tensors, base.config.classes, options.seed, base.path
        )
        return cls(base, recipe, options, master, site.digest(master))

    def lasting(self, images: int) -> Plan:
        """The same for another number of images."""
        return replace(
            self,
            recipe=replace(self.recipe, images=images),
            options=replace(self.options, images=images),
        )

    def settings(self) -> Settings:
        """What the run is held to when it resumes."""
        from ...training.run import Settings

        o = self.options
        adapt = {
            "base": self.base.name,
            "origin_sha256": self.base.sha256,
            "base_sha256": self.digest,
            "rank": o.rank,
        }
        return Settings(
            self.base.family.name,
            "finetune",
            self.recipe,
            o.seed,
            o.device,
            fit=o.fit,
            background=o.background,
            init=self.digest,
            eight_bit=o.adam8bit,
            adapt=adapt if o.rank else None,
            finetune=vars(o),
        )

    def generator(self) -> Any:
        """What trains: the base with adapters, or all of it."""
        import torch

        from ...training.adapt import site
        from ...training.order import mix

        plain = site.plain(self.base.family, self.recipe.config, self.master)
        if not self.options.rank:
            return plain
        from ...training.adapt.adapted import Adapted, targets
        from ...training.adapt.files import Lora

        tuning = self.base.family.tuning
        pairs, whole = targets(
            plain.networks, replace(tuning, whole=(*tuning.whole, *self.base.new))
        )
        lora = Lora(self.options.rank, float(self.options.rank), pairs, whole)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.options.seed, 0, "adapter"))
            return Adapted(
                self.base.family,
                self.recipe.config,
                self.master,
                lora,
                self.options.precision,
                self.options.recompute,
            )


def within(text: str, plan: Plan, photos: Photos) -> int:
    """Images that can be seen in that time on this machine as it is now: measured on a short run
    that is thrown away.

    A run through all stages, since their steps cost differently; the first two steps and those at
    which a stage begins are not counted, since there are only a few of them in a long run.
    """
    from ...families import Judged
    from ...training.loop import Trainer

    seconds = _seconds(text)
    short = replace(plan.recipe, images=plan.recipe.batch * TIMED)
    trainer = Trainer.start(plan.generator(), short, photos, plan.options.seed)
    if isinstance(trainer.generator, Judged) and trainer.generator.judge is not None:
        trainer.generator.teach(trainer.lessons(2))
    begins = {0, 1, *(trainer.span(objective)[0] for objective in trainer.objectives)}
    spent, last = [], time.monotonic()
    for step, _ in enumerate(trainer.run()):
        now = time.monotonic()
        if step not in begins:
            spent.append(now - last)
        last = now
    steps = max(1, math.floor(SAFETY * seconds * len(spent) / sum(spent)))
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
