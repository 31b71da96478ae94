"""Share what the workflows that read photos need: words for their settings, notes on photos that
are not used, and the statistics that exports are proven against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.files import JsonObject
from ..core.progress import Advance, Listener
from ..errors import InputError, UsageError, escaped

if TYPE_CHECKING:
    from ..evidence.features import FeatureNetwork
    from ..evidence.reference import Reference
    from ..training.data import Report
    from ..training.layout.description import Bad, FolderDescription
    from ..training.loop import Trainer
    from ..training.photos import Fit
    from ..training.reading import PhotoReading
    from ..training.source import Source

CHECKPOINT_STEPS = 500  # training steps between two checkpoints
REFERENCE = "reference.safetensors"
REFERENCE_IMAGES = 10_000  # most images of a reference; the distance needs no more
# two images for each direction of the reference, and more than one direction
FEWEST_PHOTOS = 8
SMALL_CLASS = 8  # a class with fewer photos is named in a warning
# choices about photos: the flag, and the value without it
CHOICES: dict[str, tuple[str, bool | None]] = {
    "classes": ("--no-classes", True),
    "follow_links": ("--follow-links", False),
    "max_megapixels": ("--max-megapixels", None),
}
REFERENCE_DIRECTIONS = 128  # directions of the projected reference, if there are photos enough


def on_bad_of(word: str) -> Literal["skip", "fail"]:
    """Return what an unreadable photo does. Raises UsageError unless the word is skip or fail."""
    if word not in ("skip", "fail"):
        raise UsageError("E-USAGE", f"--on-bad must be skip or fail, got {word!r}")
    return "fail" if word == "fail" else "skip"


def fit_of(word: str | None) -> Fit:
    """Return how a photo becomes square: pad by default. Raises UsageError unless pad, crop or
    None.
    """
    if word not in ("pad", "crop", None):
        raise UsageError("E-USAGE", f"--fit must be pad or crop, got {word!r}")
    return "crop" if word == "crop" else "pad"


def background_of(name: str | None) -> str:
    """Return the colour under transparency as #rrggbb, white by default, so that two names of one
    colour are one setting.

    Raises UsageError for a name that is no colour.
    """
    from ..training.reading import colour

    return "#{:02x}{:02x}{:02x}".format(*colour("white" if name is None else name))


def check_same_choices(settings: object, begun: JsonObject, run: Path) -> None:
    """Raise UsageError if a resumed run was started with other choices about its photos.

    `settings` has each choice as requested now, None if not; `begun` has those of the run.
    """
    for name, (flag, unsaid) in CHOICES.items():
        asked, then = getattr(settings, name), begun[name]
        if asked is None or asked == then:
            continue
        number = f" {then}" if unsaid is None else ""
        raise UsageError(
            "E-RESUME-MISMATCH",
            "the run was started "
            f"{f'without {flag}' if then == unsaid else f'with {flag}{number}'}",
            path=run,
            hint="a resumed run keeps its settings for photos: leave the option out",
        )


def understood(
    data: Path,
    reading: PhotoReading,
    listen: Listener,
    only_pixels: bool = False,
    least: int = 1,
) -> FolderDescription:
    """Say in one line what is at a path, before anything long runs, and return its
    description.

    `only_pixels`: no classes are needed, so nothing about them has to be clear; `least` is the
    number of photos that are needed. Raises InputError if the user has to say what it is, or there
    are too few photos.
    """
    from ..training.data import described

    about = described(data, reading)
    if only_pixels and about.question is not None:
        about = described(data, replace(reading, classes=False))
    if about.question is not None:
        raise about.question
    listen.note(f"understood: {about.sentence()}")
    if about.photos:  # unreadable photos are named later, when all are known
        need_photos(len(about.photos) + len(about.bad), least, data)
    return about


def need_photos(count: int, least: int, data: Path) -> None:
    """Raise InputError if there are fewer photos than training needs."""
    if count < least:
        raise InputError("E-DATA-TOO-FEW", f"{count} photos, {least} are needed", path=data)


def note_small_classes(photos: Source, listen: Listener) -> None:
    """Warn about the classes with few photos, by name."""
    counts = small_classes(photos)
    if counts:
        named = ", ".join(f"{escaped(name)} ({count})" for name, count in counts.items())
        listen.note(
            f"W-CLASS-SMALL: these classes have few photos to learn from, but are learned: {named}"
        )


def small_classes(photos: Source) -> dict[str, int]:
    """Return name to number of photos, for classes with fewer than SMALL_CLASS."""
    import numpy as np

    counts = np.bincount(photos.labels, minlength=len(photos.classes)).tolist()
    named = zip(photos.classes, counts, strict=False)
    return {name: count for name, count in named if count < SMALL_CLASS}


def images_seen(advance: Advance) -> Callable[[Trainer, object], None]:
    """Return a hook that reports a training's progress in images after each step; a resumed run
    starts with the images that it has.
    """
    before = 0

    def after(trainer: Trainer, _: object) -> None:
        nonlocal before
        advance(trainer.images - before)
        before = trainer.images

    return after


def note_unused(bad: Bad, listen: Listener) -> None:
    """Say which photo is not used, and why."""
    listen.note(f"not used: {escaped(bad.name)}: {bad.code} {bad.reason}")


def note_report(report: Report, listen: Listener) -> None:
    """Name every photo that is not used; report changed or odd ones by count and first name."""
    for bad in report.bad:
        note_unused(bad, listen)
    for code, names in report.warnings.items():
        listen.note(f"{code}: {len(names)} (such as {escaped(names[0])})")


def reference_network(weights: Path | None) -> FeatureNetwork:
    """Return the feature network of a run's reference statistics: the one in the weight file, else
    the packaged one.

    Raises an error if its weights are missing.
    """
    from ..evidence import features

    return features.network_in(weights) if weights else features.feature_network(features.LITE0)


def fastest(network: FeatureNetwork) -> FeatureNetwork:
    """Return the same network, executed by the fastest means here, which is torch on a machine that
    only trains.
    """
    from ..export.packages import absent

    if absent("onnx", "export"):
        return network
    from .fast_features import fast_features

    return fast_features(network)


def write_reference(photos: Source, run: Path, weights: Path | None, listen: Listener) -> None:
    """Write the statistics of the photos that exports of this run are proven against."""
    from ..training.digests import keep

    statistics = statistics_of(
        photos, "training photos", fastest(reference_network(weights)), listen
    )
    keep(run, {REFERENCE: statistics.to_bytes()})


def statistics_of(
    photos: Source, name: str, network: FeatureNetwork, listen: Listener
) -> Reference:
    """Return the statistics of photos called `name`, along as many directions as there are photos
    for.
    """
    import numpy as np

    from ..evidence import reference
    from ..training.source import sample

    with listen.progress("reference statistics", min(len(photos), REFERENCE_IMAGES)) as advance:
        pixels = sample(photos, REFERENCE_IMAGES)
        parts = []
        for start in range(0, len(pixels), 64):
            parts.append(network(pixels[start : start + 64]))
            advance(len(parts[-1]))
        directions = min(REFERENCE_DIRECTIONS, len(pixels) // 4)
        return reference.build(np.concatenate(parts), network, name, directions)


def reference_at(
    path: Path, name: str, size: int, weights: Path | None, listen: Listener
) -> Reference:
    """Read statistics from a file, or compute those of the photos in a folder or an archive, read
    at `size` pixels a side and called `name` in the evidence.

    Raises InputError for too few photos.
    """
    from ..evidence import reference
    from ..training.layout.archive import is_zip
    from ..training.reading import PhotoReading
    from ..training.shards import find
    from ..training.source import open_source

    if not (path.is_dir() or is_zip(path) or find(path)):
        return reference.read(path)
    # links inside the folder are followed: only statistics leave it, and there is no flag to ask
    reading = PhotoReading(follow_links=True)
    about = understood(path, reading, listen, only_pixels=True)
    with open_source(about, size) as (source, report):
        note_report(report(), listen)
        if len(source) < FEWEST_PHOTOS:
            raise InputError(
                "E-FID-REF",
                f"{len(source)} photos are too few to judge against: at least {FEWEST_PHOTOS} are "
                "needed",
                path=path,
                hint="add photos, or add --no-reference",
            )
        network = fastest(reference_network(weights))
        return statistics_of(source, name, network, listen)
