"""How one fine-tuning is set up: from its settings, or from the run it resumes, to what trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.progress import Listener, silent
from ...errors import InputError, UsageError, escaped
from ...training.adapt import Kind
from ..limits import check_numbers
from ..photo_sets import background_of, check_same_choices, fit_of, note_small_classes
from .settings import FinetuneSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ...core.graph import Generator
    from ...families import Recipe
    from ...training.data import Photos
    from ...training.run import RunSettings
    from .base import BaseGenerator

SHARES = tuple(k / 20 for k in range(2, 11))  # 0.1 to 0.5
DOCUMENTED = {"evaluations": "looks"}  # fields that run.json has under another name
# that run.json has only where they say something: once there was no such choice
LATER = ("follow_links", "max_megapixels", "look_images")


@dataclass(frozen=True)
class FinetuneChoices:
    """The settings of a run, each decided. run.json holds them, and a resumed run is held to
    them.
    """

    size: int  # pixels a side, of photos and images
    rank: int  # 0: every weight trains, there is no adapter
    precision: Kind = "fp32"  # of the frozen base while it trains
    adam8bit: bool = False
    recompute: bool = False
    images: int | None = None  # None: the family's, as the two below
    batch: int | None = None
    rate: float | None = None
    held_out: float | None = None  # None: the smallest of SHARES that holds out enough
    evaluations: int = 8
    # of an evaluation, where a time was enough for few; None: as many as ever
    look_images: int | None = None
    patience: int = 3
    classes: bool = True
    follow_links: bool = False
    max_megapixels: int | None = None
    seed: int = 0
    device: str = "cpu"
    fit: str = "pad"
    background: str = "#ffffff"

    def __post_init__(self) -> None:
        if not self.rank and (self.precision != "fp32" or self.recompute):
            raise UsageError(
                "E-USAGE", "--rank 0 trains every weight: --base and --recompute are for adapters"
            )
        check_numbers(self)

    def to_json(self) -> dict[str, Any]:
        """As run.json has them; those of LATER where they are said: once there was no choice."""
        choices = {DOCUMENTED.get(name, name): value for name, value in vars(self).items()}
        return {k: v for k, v in choices.items() if k not in LATER or v}


def choose(
    settings: FinetuneSettings, previous_run: Path | None, base: BaseGenerator
) -> FinetuneChoices:
    """Each setting: as given, else as the run to resume recorded it, else the base's or the
    default. InputError where that record is damaged.
    """
    from ...training.checkpoint import parse

    recorded = {} if previous_run is None else _recorded(previous_run)
    if previous_run is not None and recorded:
        begun = {"classes": True, "follow_links": False, "max_megapixels": None, **recorded}
        check_same_choices(settings, begun, previous_run)
    asked_for = {
        **{field.name: getattr(settings, field.name, None) for field in fields(FinetuneChoices)},
        "fit": settings.fit and fit_of(settings.fit),
        "background": settings.background
        if settings.background is None
        else background_of(settings.background),
    }
    if settings.time is not None and recorded:
        asked_for["evaluations"] = None  # the time decided, when the run began
    decided = {"size": base.config.size, "rank": base.family.tuning.rank}
    for source in (recorded, asked_for):
        decided |= {name: value for name, value in source.items() if value is not None}
    file = previous_run / "run.json" if previous_run else Path()
    choices = parse(FinetuneChoices, decided, file)
    # here, since it changes other settings that would be named first
    if choices.size != recorded.get("size", choices.size):
        raise UsageError(
            "E-RESUME-MISMATCH",
            "the run was started with another size",
            path=previous_run,
            hint=f"then {recorded['size']}, now {choices.size}",
        )
    return choices


def _recorded(run: Path) -> dict[str, Any]:
    """The choices of the run in a folder, by field; empty where there is none yet."""
    from ...training.digests import RUN, description

    path = run / RUN
    if not path.is_file():
        return {}
    recorded: Any = description(run).get("finetune")
    if not isinstance(recorded, dict):
        raise InputError("E-RUN", "not a run of `edgegen finetune`", path=path)
    fields_of = {documented: name for name, documented in DOCUMENTED.items()}
    return {fields_of.get(str(name), str(name)): value for name, value in recorded.items()}


def recorded_base(run: Path) -> str:
    """The zoo generator that the run in a folder stands on. UsageError where it stands on another
    run, or does not say on what.
    """
    from ...training.adapt.site import ADAPTS
    from ...training.digests import RUN, description
    from ...zoo import entries

    path = run / RUN
    adapt: Any = description(run).get(ADAPTS) if path.is_file() else None
    name = adapt.get("base") if isinstance(adapt, dict) else None
    if name not in {entry.name for entry in entries()}:
        raise UsageError(
            "E-USAGE",
            "the run does not record with which generator of the zoo it began",
            path=path,
            hint="name the base that it was started with: `edgegen finetune BASE RUN --resume`",
        )
    return str(name)


def merge_small_classes(photos: Photos, fewest: int = 1, listen: Listener = silent) -> Photos:
    """The photos with the classes that have fewer than `fewest` as one, "other", which takes the
    next larger ones until it has as many; classes without any are gone. Notes name them, and those
    that are small and stay.
    """
    import numpy as np

    from ...training.data import Photos

    names, counts = photos.classes, np.bincount(photos.labels, minlength=len(photos.classes))
    if len(names) < 2:
        return photos
    order = [k for k in np.argsort(counts, kind="stable").tolist() if counts[k]]
    merged = sum(int(counts[k]) < fewest for k in order)
    while 0 < merged < len(order) and counts[order[:merged]].sum() < fewest:
        merged += 1
    if gone := [names[k] for k in range(len(names)) if not counts[k]]:
        listen.note(
            "W-CLASS-GONE: these classes have no photo to train on, because all of them are held "
            f"out: {_named(gone)}"
        )
    small, kept = order[:merged], sorted(order[merged:])
    if merged:
        listen.note(
            f"W-CLASS-MERGED: this family needs {fewest} photos of each class, so these classes "
            f"are merged into one class named other: {_named([names[k] for k in small])}"
        )
    number = np.full(len(counts), len(kept))
    number[kept] = np.arange(len(kept))
    known = tuple(names[k] for k in kept) + (("other",) if merged else ())
    found = Photos(photos.pixels, number[photos.labels], known) if known != names else photos
    note_small_classes(found, listen)
    return found


def _named(names: list[str]) -> str:
    return ", ".join(map(escaped, names))


def hold_out(
    photos: Photos, choices: FinetuneChoices, listen: Listener = silent, fewest: int = 1
) -> tuple[FinetuneChoices, Photos, Photos]:
    """Training photos and held-out ones, near-copies on one side; the choices then name the share.
    fewest: photos that the family needs of a class. InputError for too few photos.
    """
    from ...evidence.small_sample_distance import LEAST
    from ...training.split import refuse_leak, split

    shares = SHARES if choices.held_out is None else (choices.held_out,)
    for share in shares:
        try:
            train, held_out = split(photos, share)
        except InputError:
            continue
        if len(held_out) >= LEAST and len(train) >= LEAST:
            refuse_leak(train, held_out)
            merged = merge_small_classes(train, fewest, listen)
            return replace(choices, held_out=share), merged, held_out
    raise InputError(
        "E-DATA-TOO-FEW",
        f"of {len(photos)} photos, {LEAST} cannot be held out with a share of {shares[-1]:g}",
        hint="add photos" + ("" if choices.held_out is None else ", or change --held-out"),
    )


def note_unused_classes(base: BaseGenerator, photos: Photos, listen: Listener) -> None:
    """Say that a base without classes learns none."""
    if not base.config.classes and len(photos.classes) > 1:
        listen.note(
            "W-CLASS-UNUSED: the base has no classes, so the classes of the photos are not "
            f"learned: {_named(list(photos.classes))}; choose a base with classes, or add "
            "--no-classes"
        )


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning, ready to run. base_weights: the base's tensors, for the site's classes."""

    base: BaseGenerator
    recipe: Recipe
    choices: FinetuneChoices
    base_weights: Mapping[str, Tensor]
    base_sha256: str

    @classmethod
    def of(cls, base: BaseGenerator, photos: Photos, choices: FinetuneChoices) -> FinetunePlan:
        """For these photos: their classes, and batches no larger than they are. InputError for a
        base that does not fit.
        """
        from ...families import Recipe
        from ...training.adapt import site
        from ...training.device import precision_on

        classes = max(1, len(photos.classes)) if base.config.classes else 0
        tuning = base.family.tuning
        recipe = Recipe(
            replace(base.config, classes=classes),
            choices.images or tuning.images,
            min(choices.batch or tuning.batch, len(photos)),
            choices.rate or tuning.rate,
            tuning.warmup,
            tuning.ema,
            precision_on(choices.device, tuning.precision),
        )
        weights = site.fitted(
            base.family, recipe.config, base.tensors, base.config.classes, choices.seed, base.path
        )
        return cls(base, recipe, choices, weights, site.digest(weights))

    def for_images(self, images: int) -> FinetunePlan:
        """The same for another number of images."""
        return replace(
            self,
            recipe=replace(self.recipe, images=images),
            choices=replace(self.choices, images=images),
        )

    def run_settings(self) -> RunSettings:
        """What the run is held to when it resumes."""
        from ...training.run import RunSettings

        choices = self.choices
        adapt = {
            "base": self.base.name,
            "origin_sha256": self.base.sha256,
            "base_sha256": self.base_sha256,
            "rank": choices.rank,
        }
        return RunSettings(
            self.base.family.name,
            "finetune",
            self.recipe,
            choices.seed,
            choices.device,
            fit=choices.fit,
            background=choices.background,
            classes=choices.classes,
            follow_links=choices.follow_links,
            max_megapixels=choices.max_megapixels,
            init=self.base_sha256,
            eight_bit=choices.adam8bit,
            adapt=adapt if choices.rank else None,
            finetune=choices.to_json(),
        )

    def base_generator(self) -> Generator:
        """The base, for the site's classes."""
        from ...training.adapt import site

        return site.plain(self.base.family, self.recipe.config, self.base_weights)

    def generator(self) -> Generator:
        """What trains: the base with adapters, or all of it."""
        import torch

        from ...training.order import mix

        if not self.choices.rank:
            return self.base_generator()
        from ...training.adapt.adapted import Adapted, targets
        from ...training.adapt.files import Lora

        tuning = self.base.family.tuning
        pairs, whole = targets(
            self.base_generator().networks,
            replace(tuning, whole=(*tuning.whole, *self.base.new_modules)),
        )
        lora = Lora(self.choices.rank, float(self.choices.rank), pairs, whole)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.choices.seed, 0, "adapter"))
            return Adapted(
                self.base.family,
                self.recipe.config,
                self.base_weights,
                lora,
                self.choices.precision,
                self.choices.recompute,
            )
