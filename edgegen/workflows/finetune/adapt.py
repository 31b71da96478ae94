"""A trained generator adapted to a site's own photos, as a small adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.progress import Listener, silent
from ...errors import GateFailed, UsageError
from ..context import cores
from ..generators import need_torch
from ..photo_sets import (
    CHECKPOINT_STEPS,
    FEWEST_PHOTOS,
    background_of,
    fastest,
    fit_of,
    images_seen,
    need_photos,
    note_report,
    on_bad_of,
    reference_network,
    understood,
    write_reference,
)
from ..torch_threads import torch_threads
from .settings import FinetuneSettings

if TYPE_CHECKING:
    from ...training.data import Photos
    from ...training.layout.description import FolderDescription
    from ...training.loop import Trainer
    from ...training.reading import PhotoReading
    from .periodic_eval import PeriodicEvaluation
    from .setup import FinetuneChoices, FinetunePlan


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned run. evaluations: all of them and the rule that ended it, as looks.json has
    them; last: base and adapted generator against held-out photos, at the end.
    """

    out: Path
    precision: str  # of the base while the adapter trained
    evaluations: Mapping[str, Any]
    last: Mapping[str, Any]

    @property
    def far(self) -> bool:
        """Whether what it draws is too far from the photos to be called the site's products."""
        return bool(self.last["scale"]["far"])

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen finetune --json`, but for its frame."""
        return {"out": str(self.out), "watch": dict(self.evaluations), "last": dict(self.last)}


def finetune(
    base: str | Path | None,
    out: str | Path,
    data: str | Path,
    settings: FinetuneSettings | None = None,
    listen: Listener = silent,
) -> FinetuneResult:
    """Adapt `base`, a zoo name or a finished run, to the photos in `data`; the run lies in `out`.
    None: the zoo's generator whose images are nearest to the photos, or that of the resumed run.

    The base stays as it is. Held-out photos decide which state is kept and when it ends. Raises
    UsageError for settings, a base or a folder that cannot be used, InputError for photos that
    cannot, RuntimeMissing without torch or peft, GateFailed where the rounded base is too far from
    what ships.
    """
    need_torch()
    from ...training.device import device_of
    from ...training.run import check_free
    from .base import open_base
    from .duration import measured_pace, timed_steps, within
    from .periodic_eval import PeriodicEvaluation
    from .setup import FinetunePlan, choose, hold_out, note_unused_classes, recorded_base

    settings, out, data = settings or FinetuneSettings(), Path(out), Path(data)
    check_free(out, settings.resume)
    photos = None
    if base is None and settings.resume:
        base = recorded_base(out)
    elif base is None:
        base, photos = _nearest(data, settings, listen)
    opened = open_base(str(base), listen)
    choices = choose(settings, out if settings.resume else None, opened)
    reading = _reading(choices, settings)
    _check_libraries(choices)
    device_of(choices.device)
    opened = opened.grown_to(choices.size, choices.seed)
    network = fastest(reference_network(settings.feature_weights))
    with torch_threads(settings.threads or cores()):
        if photos is None:
            about = _described(data, reading, listen)
            photos = _read_photos(about, choices.size, reading, listen)
        choices, train, held_out = hold_out(photos, choices, listen, opened.family.tuning.fewest)
        note_unused_classes(opened, train, listen)
        plan = FinetunePlan.of(opened, train, choices)
        if settings.steps is not None:
            plan = plan.for_images(settings.steps * plan.recipe.batch)
        # a resumed run knows how long it is
        elif settings.time is not None and choices.images is None:
            pace = measured_pace(plan, train, network, timed_steps(settings.time))
            plan = within(settings.time, plan, pace, listen)
        evaluation = PeriodicEvaluation.of(out, plan, train, held_out, network, listen)
        try:
            _train(plan, train, out, settings.resume, evaluation, listen)
        except GateFailed as refused:
            refused.result = _result(out, evaluation)
            raise
        write_reference(photos, out, settings.feature_weights, listen)
    return _result(out, evaluation)


def _nearest(data: Path, settings: FinetuneSettings, listen: Listener) -> tuple[str, Photos]:
    """The zoo's generator that is nearest to the photos, by name, and these, as it will take them:
    read at the size asked for, or at the smallest that the zoo draws, so that no other is larger.
    """
    from ...zoo import entries
    from .nearest import nearest_base
    from .setup import FinetuneChoices

    size = settings.size or min(entry.card["config"]["size"] for entry in entries())
    defaults = FinetuneChoices(size, rank=1)
    choices = replace(
        defaults,
        fit=settings.fit or defaults.fit,
        background=background_of(settings.background or defaults.background),
        classes=settings.classes is not False,
        follow_links=bool(settings.follow_links),
        max_megapixels=settings.max_megapixels,
    )
    reading = _reading(choices, settings)
    with torch_threads(settings.threads or cores()):
        photos = _read_photos(_described(data, reading, listen), size, reading, listen)
        network = fastest(reference_network(settings.feature_weights))
        found = nearest_base(photos, network, listen)
    listen.note(str(found))
    return found.name, photos


def _check_libraries(choices: FinetuneChoices) -> None:
    """What is not here is told before the photos are read."""
    from ...training.adapt.library import importing

    if choices.rank:
        with importing("peft"):
            import peft  # noqa: F401
    if choices.adam8bit or choices.precision != "fp32":
        with importing("bitsandbytes"):
            import bitsandbytes  # noqa: F401


def _reading(choices: FinetuneChoices, settings: FinetuneSettings) -> PhotoReading:
    from ...training.reading import PhotoReading

    return PhotoReading(
        choices.background,
        fit_of(choices.fit),
        on_bad_of(settings.on_bad),
        classes=choices.classes,
        follow_links=choices.follow_links,
        max_megapixels=choices.max_megapixels,
    )


def _described(data: Path, reading: PhotoReading, listen: Listener) -> FolderDescription:
    """What is at the path, said before anything long runs."""
    about = understood(data, reading, listen, least=2 * FEWEST_PHOTOS)
    if about.kind == "shards":
        raise UsageError(
            "E-DATA-SHARDS",
            "fine-tuning cannot read tar shards, because it needs all photos at once",
            path=data,
            hint="unpack the shards into a folder",
        )
    return about


def _read_photos(
    about: FolderDescription, size: int, reading: PhotoReading, listen: Listener
) -> Photos:
    """The photos, with classes if they are wanted. InputError for too few."""
    from ...training.data import load

    with listen.progress("reading photos") as advance:
        photos, report = load(about, size, reading, progress=lambda _, __: advance(1))
    note_report(report, listen)
    need_photos(len(photos), 2 * FEWEST_PHOTOS, about.path)
    return photos


def _train(
    plan: FinetunePlan,
    photos: Photos,
    out: Path,
    resume: bool,
    evaluation: PeriodicEvaluation,
    listen: Listener,
) -> None:
    from ...training.run import RunOptions
    from ...training.run import train as train_run

    label = f"adapting {plan.base.name}"
    with listen.progress(label, plan.recipe.images, "images") as advance:
        count = images_seen(advance)

        def after(trainer: Trainer, report: dict[str, float]) -> None:
            count(trainer, report)
            evaluation.after(trainer)

        train_run(
            plan.run_settings(),
            photos,
            out,
            resume,
            CHECKPOINT_STEPS,
            after,
            RunOptions(
                generator=plan.generator(),
                begin=evaluation.begin,
                finish=evaluation.finish,
                note=listen.note,
            ),
        )


def _result(out: Path, evaluation: PeriodicEvaluation) -> FinetuneResult:
    precision = evaluation.plan.choices.precision
    return FinetuneResult(out, precision, evaluation.watch.to_json(), evaluation.last)
