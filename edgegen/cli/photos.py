"""edgegen photos check: show what is in a folder of photos, before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.progress import Advance
from ..errors import escaped
from . import output
from .training_options import Background, Fit, FollowLinks, HeldOut, MaxMegapixels, NoClasses

if TYPE_CHECKING:
    from ..training.layout.description import Bad
    from ..workflows.photos import PhotosReport

NUMBER = re.compile(r"\d+")
EXAMPLES = 3  # photos that are named for each reason; --json has all
SHOWN = 20  # groups that are printed; --json has all
SHEET = Path("contact-sheet.png")
MEANING = {  # of the codes of photos that are used
    "W-IMG-TURNED": "turned upright, as its EXIF data says",
    "W-IMG-PROFILE": "its colour profile cannot be used: treated as sRGB",
    "W-IMG-BITS": "12 bits stored in 16: scaled as 12 bits",
    "W-IMG-CMYK": "print colours (CMYK) converted to RGB: check them on the contact sheet",
    "W-IMG-ALPHA": "has transparent pixels: the background shows behind them",
    "W-IMG-DEPTH": "more than 8 bits per channel: scaled to 8",
    "W-IMG-PALETTE": "a palette of at most 256 colours",
    "W-IMG-FRAMES": "has several frames or pages: the first is used",
    "W-DATA-DUP": "identical to another photo",
    "W-DATA-DUP-CLASS": "the same picture in several classes: only the first class counts",
    "W-DATA-CLASS-EMPTY": "a class folder without photos: not used as a class",
    "W-DATA-CLASS-CASE": "classes whose names differ only in upper and lower case",
    "W-DATA-CLASS-FORM": "the same name, encoded in Unicode in two ways: treated as one class",
    "W-DATA-DARK": "nearly black: check whether the brightness levels of the set are right",
    "W-DATA-BRIGHT": "nearly white: check whether the brightness levels of the set are right",
    "W-DATA-IGNORED": "not a photo, judging by its name: ignored",
    "W-DATA-NOT-FILE": "not a regular file: never opened",
    "W-META-UNLISTED": "not listed in the set's table: ignored",
    "W-META-COLUMNS": "a column that is not read: classes come from a column label, class or "
    "category",
    "W-META-CAPTIONS": "almost every text belongs to a single photo: these are captions, not "
    "classes",
}
COST = {  # cost of each fit for photos that are not square
    "pad": "padded: the background fills {mean_cost:.0%} of their area on average and at most "
    "{max_cost:.0%}; --fit crop would cut away as much",
    "crop": "cropped: {mean_cost:.0%} of each photo is cut away on average and at most "
    "{max_cost:.0%}; --fit pad would keep the whole photo and add background",
}

photos = typer.Typer(help="Examine photos before you train on them.")


@photos.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="A folder, a zip archive or IDX files.", metavar="PHOTOS")
    ],
    size: Annotated[
        int, typer.Option(help="Width and height of the model's images in pixels.", min=8, max=1024)
    ] = 32,
    fit: Fit = None,
    background: Background = None,
    held_out: HeldOut = None,
    contact_sheet: Annotated[
        Path,
        typer.Option(help="PNG file to write, which shows the photos as a model will see them."),
    ] = SHEET,
    no_classes: NoClasses = False,
    follow_links: FollowLinks = False,
    max_megapixels: MaxMegapixels = None,
    json: output.Json = False,
) -> None:
    """Show what is in a folder of photos (counts, sizes, duplicates, bad photos) and draw a contact
    sheet.
    """
    from ..workflows.photos import PhotosSettings, check_photos

    settings = PhotosSettings(
        size,
        fit,
        background,
        held_out,
        contact_sheet,
        not no_classes,
        follow_links,
        max_megapixels,
    )
    report = check_photos(folder, settings, _Said())
    _show(report)
    if report.refusal is not None:
        raise report.refusal
    output.result("photos check", report.to_json())


class _Said:
    """Print notes on stdout, because what was understood is this verb's first line."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Advance]:
        return output.terminal.progress(label, total, unit)


def _show(report: PhotosReport) -> None:
    met, document = report.report, report.to_json()
    dropped = met.found - met.kept - len(met.bad)
    print(
        f"photos: {met.found} found, {met.kept} used, {len(met.bad)} bad, {dropped} left out as "
        "duplicates"
    )
    _show_classes(report)
    if met.sizes:
        _show_sizes(document)
    _show_groups("duplicates", met.duplicates, "equal pixels")
    _show_groups("near-copies", report.near_copies, "each group stays on one side of the split")
    print(
        f"split: {report.train_count} to train on, {report.held_out_count} held out "
        f"({report.share:g}); {len(report.across)} near-copies on both sides"
    )
    if met.warnings:
        rows = [[code, len(files), MEANING[code], files[0]] for code, files in met.warnings.items()]
        output.table(["what", "files", "means", "such as"], rows)
    if met.bad:
        counts = document["bad_counts"].items()
        print("bad: " + ", ".join(f"{count} {code}" for code, count in counts))
        output.table(["photos", "code", "why", "such as"], _by_reason(met.bad))
    print(f"fine-tuning: {document['fine_tuning']['why']}")
    if report.small:
        few = (f"{escaped(name)} ({count})" for name, count in report.small.items())
        print(
            "  classes with few photos to learn from, kept if the family allows it: "
            f"{', '.join(few)}"
        )
    if document["contact_sheet"]:
        print(f"contact sheet: {document['contact_sheet']}")


def _by_reason(bad: Sequence[Bad]) -> list[list[object]]:
    """Return one row for all photos with the same code and reason, whatever numbers the reason
    names; the most frequent first.
    """
    groups: dict[tuple[str, str], list[Bad]] = {}
    for photo in bad:
        groups.setdefault((photo.code, NUMBER.sub("#", photo.reason)), []).append(photo)
    rows: list[list[object]] = []
    for (code, _), of in sorted(groups.items(), key=lambda item: -len(item[1])):
        more = f" and {len(of) - EXAMPLES} more" if len(of) > EXAMPLES else ""
        names = ", ".join(photo.name for photo in of[:EXAMPLES])
        rows.append([len(of), code, of[0].reason, names + more])
    return rows


def _show_classes(report: PhotosReport) -> None:
    classes, photos = report.report.classes, report.photos
    if not classes:
        return
    held_out = Counter(photos.labels[report.held_out].tolist())
    rows = [[name, classes[name], held_out[number]] for number, name in enumerate(photos.classes)]
    output.table(["class", "photos", "held out"], rows)


def _show_sizes(document: dict[str, Any]) -> None:
    spread, shapes, fit = document["photos"]["sizes"], document["shapes"], document["photos"]["fit"]
    rows = [
        [name, *(f"{spread[name][part]:.4g}" for part in ("min", "median", "max"))]
        for name in ("width", "height", "ratio")
    ]
    output.table(["pixels", "least", "median", "most"], rows)
    print("shapes: {square} square, {wide} wide, {tall} tall".format(**shapes))
    if shapes["max_cost"]:
        print(f"those that are not square are {COST[fit]}".format(**shapes))
    if shapes["smaller"]:
        print(
            f"smaller: {shapes['smaller']} photos have a side of fewer than {document['size']} "
            "pixels"
        )


def _show_groups(title: str, groups: Sequence[Sequence[str]], what: str) -> None:
    if not groups:
        print(f"{title}: none")
        return
    print(
        f"{title}: {sum(map(len, groups))} photos in {len(groups)} "
        f"{'groups' if len(groups) > 1 else 'group'} ({what})"
    )
    for group in groups[:SHOWN]:
        print("  " + "  ".join(map(escaped, group)))
    if len(groups) > SHOWN:
        print(f"  and {len(groups) - SHOWN} more groups; --json has all")
