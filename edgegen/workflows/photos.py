"""Report what is in a folder of photos and what becomes of it, before anything is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..errors import InputError, UsageError
from .limits import Limit, check_numbers
from .photo_sets import FEWEST_PHOTOS, background_of, fit_of, small_classes, understood

if TYPE_CHECKING:
    import numpy as np

    from ..training.data import Photos, Report, Survey
    from ..training.layout.description import FolderDescription


@dataclass(frozen=True)
class PhotosSettings:
    """Say how the photos would be trained on."""

    size: int = 32  # pixels a side of the model's images
    fit: str | None = None  # what becomes of photos that are not square: pad or crop; None: pad
    background: str | None = None  # colour under transparency; None: white
    held_out: float | None = None  # share that is not trained on; None: as finetune chooses it
    contact_sheet: Path | None = None  # where to draw the photos as a model will see them
    classes: bool = True  # read the classes that folders and tables name
    follow_links: bool = False  # follow links to photos inside the folder
    max_megapixels: int | None = None  # largest photo; None: 256 for a JPEG, 64 for others

    def __post_init__(self) -> None:
        check_numbers(self, size=Limit(8, 1024))
        fit_of(self.fit)
        sheet = self.contact_sheet
        if sheet and (sheet.suffix.lower() != ".png" or not sheet.parent.is_dir()):
            raise UsageError(
                "E-OUT", "--contact-sheet must be a .png file in an existing folder", path=sheet
            )


@dataclass(frozen=True)
class PhotosReport:
    """Hold what was found.

    `near_copies` are groups of names of photos that are nearly the same. `held_out`, (n,) bool,
    marks the share that is not trained on, and `across` names its photos with a near-copy in
    training. `small` counts the photos of classes with few to train on. `refusal` says why nothing
    can train on the photos; None if it can.
    """

    settings: PhotosSettings
    described: FolderDescription
    photos: Photos
    report: Report
    near_copies: tuple[tuple[str, ...], ...]
    share: float
    held_out: np.ndarray
    across: tuple[str, ...]
    small: dict[str, int]
    refusal: InputError | None

    @property
    def held_out_count(self) -> int:
        return int(self.held_out.sum())

    @property
    def train_count(self) -> int:
        return len(self.photos) - self.held_out_count

    @property
    def different(self) -> int:
        """Return the number of photos that remain if one stays of each group of near-copies."""
        return len(self.photos) - sum(len(group) - 1 for group in self.near_copies)

    def enough(self) -> tuple[bool, str]:
        """Return whether finetune takes the photos, and why."""
        from ..evidence.small_sample_distance import LEAST

        train, held_out = self.train_count, self.held_out_count
        count = train + held_out
        if self.refusal is not None:
            return False, "not with this folder"
        if count < 2 * FEWEST_PHOTOS:
            return False, f"too few: {count} photos, {2 * FEWEST_PHOTOS} are needed"
        if min(train, held_out) < LEAST:
            return False, (
                f"too few: {train} to train on and {held_out} held out, {LEAST} of each are "
                f"needed; {self.different} of the {count} photos are different ones"
            )
        return True, f"enough: {train} photos to train on, {held_out} held out"

    def shapes(self) -> dict[str, Any]:
        """Return how many photos are wide, square, tall or small, and what their fit costs."""
        from ..training import sizes

        report = self.report
        smaller = sizes.smaller(report.sizes, self.settings.size, report.fit)
        return {**sizes.shapes(report.sizes), "smaller": smaller}

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen photos check --json` prints, without its
        outer frame.
        """
        enough, why = self.enough()
        bad = Counter(photo.code for photo in self.report.bad)
        sheet = self.settings.contact_sheet
        return {
            "usable": self.refusal is None,
            "understood": self.described.to_json(),
            "size": self.settings.size,
            "photos": self.report.to_json(),
            "bad_counts": dict(sorted(bad.items())),
            "shapes": self.shapes(),
            "near_copies": [list(group) for group in self.near_copies],
            "split": {
                "held_out_share": self.share,
                "train": self.train_count,
                "held_out": self.held_out_count,
                "copies_across": list(self.across),
            },
            "fine_tuning": {"enough": enough, "why": why, "small_classes": self.small},
            "contact_sheet": str(sheet) if sheet and len(self.photos) else None,
        }


def check_photos(
    folder: str | Path, settings: PhotosSettings | None = None, listen: Listener = silent
) -> PhotosReport:
    """Report what is in a folder: counts, sizes, copies, bad photos and what would be held out;
    draw a contact sheet if the settings name one. Nothing in the folder changes.

    A folder that no training would take is reported too: its report has a `refusal`, an error to
    raise. Raises InputError if the path is no folder of photos, UsageError for tar shards and for
    settings that cannot be used.
    """
    from ..training.data import survey
    from ..training.reading import PhotoReading

    settings, folder = settings or PhotosSettings(), Path(folder)
    reading = PhotoReading(
        background_of(settings.background),
        fit_of(settings.fit),
        classes=settings.classes,
        follow_links=settings.follow_links,
        max_megapixels=settings.max_megapixels,
    )
    if settings.contact_sheet is not None:
        _refuse_sheet(settings.contact_sheet, folder)
    about = understood(folder, reading, listen)
    if about.kind == "shards":
        raise UsageError(
            "E-DATA-SHARDS",
            "tar shards are checked while they are read, not before",
            path=folder,
            hint="`edgegen train` names every photo in the shards that cannot be used",
        )
    with listen.progress("reading photos") as advance:
        seen = survey(about, settings.size, reading, progress=lambda _, __: advance(1))
    with listen.progress("comparing photos"):
        report, groups = _report(seen, settings)
    if settings.contact_sheet and len(seen.photos):
        from ..core.files import write_bytes
        from ..training.sheet import sheet, to_png

        drawn = sheet(seen.photos, report.held_out, groups)
        write_bytes(settings.contact_sheet, to_png(drawn))
    if report.refusal is not None:
        report.refusal.details.update(report.to_json())
    return report


def _refuse_sheet(sheet: Path, folder: Path) -> None:
    """Raise UsageError if the contact sheet would become a photo of the folder or replace a file
    that is no contact sheet.
    """
    from ..training.sheet import is_sheet

    if (sheet.exists() or sheet.is_symlink()) and not is_sheet(sheet):
        raise UsageError(
            "E-OUT-EXISTS",
            "a file of this name exists and is not a contact sheet",
            path=sheet,
            hint="choose another place with --contact-sheet FILE.png",
        )
    if sheet.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            "E-OUT",
            "the contact sheet would be inside the folder of photos",
            path=sheet,
            hint="choose another place with --contact-sheet FILE.png",
        )


def _report(seen: Survey, settings: PhotosSettings) -> tuple[PhotosReport, list[list[int]]]:
    """Return the report, and the indices of near-copies in groups.

    The photos are split as finetune does it: with the share that is asked for, else with the
    smallest of its SHARES that holds out enough.
    """
    import numpy as np

    from ..evidence.small_sample_distance import LEAST
    from ..training.copies import near_groups
    from ..training.split import sides
    from .finetune.setup import SHARES

    groups, names = near_groups(seen.photos.pixels), seen.names
    share, held_out = 0.0, np.zeros(0, bool)
    for share in SHARES if settings.held_out is None else (settings.held_out,):
        held_out = sides(seen.photos, share, groups) if len(seen.photos) else held_out
        if min(held_out.sum(), (~held_out).sum()) >= LEAST:
            break
    split_groups = [group for group in groups if 0 < held_out[group].sum() < len(group)]
    report = PhotosReport(
        settings,
        seen.described,
        seen.photos,
        seen.report,
        tuple(tuple(names[k] for k in group) for group in groups),
        share,
        held_out,
        tuple(names[k] for group in split_groups for k in group if held_out[k]),
        _small_classes(seen, held_out),
        seen.refusal,
    )
    return report, groups


def _small_classes(seen: Survey, held_out: np.ndarray) -> dict[str, int]:
    """Return the classes with few photos to train on, with their number."""
    from ..training.data import Photos

    photos, train = seen.photos, ~held_out
    if seen.refusal is not None or not train.any():
        return {}
    return small_classes(Photos(photos.pixels[train], photos.labels[train], photos.classes))
