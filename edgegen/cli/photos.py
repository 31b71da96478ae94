"""edgegen photos check: what is in a folder of photos, before anything is trained."""

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
EXAMPLES = 3  # photos that are named for a reason; --json has all
SHOWN = 20  # groups in the text; --json has all
SHEET = Path("contact-sheet.png")
MEANING = {  # of the codes that photos are used with
    "W-IMG-TURNED": "turned upright, as its EXIF says",
    "W-IMG-PROFILE": "a colour profile that cannot be used: taken for sRGB",
    "W-IMG-BITS": "12 bits in a file of 16: scaled by those",
    "W-IMG-CMYK": "print colours (CMYK) made RGB: look at them on the sheet",
    "W-IMG-ALPHA": "transparent: put on the background",
    "W-IMG-DEPTH": "more than 8 bits a channel: scaled to 8",
    "W-IMG-PALETTE": "a palette of at most 256 colours",
    "W-IMG-FRAMES": "several frames or pages: the first is used",
    "W-DATA-DUP": "equal to another photo",
    "W-DATA-DUP-CLASS": "one picture in several classes: the first one's counts",
    "W-DATA-CLASS-EMPTY": "a class folder without photos: no class",
    "W-DATA-CLASS-CASE": "classes that differ by upper and lower case alone",
    "W-DATA-CLASS-FORM": "one name that Unicode writes in two ways: one class",
    "W-DATA-DARK": "nearly black: look whether the set's levels are right",
    "W-DATA-BRIGHT": "nearly white: look whether the set's levels are right",
    "W-DATA-IGNORED": "no photo by its name: passed over",
    "W-DATA-NOT-FILE": "no regular file: never opened",
    "W-META-UNLISTED": "not in the set's table: passed over",
    "W-META-COLUMNS": "a column that is not read: the class is label, class or category",
    "W-META-CAPTIONS": "nearly each text is of one photo alone: captions, no classes",
}
COST = {  # of photos that are not square, by what becomes of them
    "pad": "padded: the background fills {mean_cost:.0%} of their squares on average, "
    "{max_cost:.0%} at most; --fit crop would cut as much away",
    "crop": "cropped: {mean_cost:.0%} of each is cut away on average, {max_cost:.0%} at most; "
    "--fit pad would keep all, on the background",
}

photos = typer.Typer(help="Look at photos before anything is trained on them.")


@photos.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="A folder, a zip archive or IDX files.", metavar="PHOTOS")
    ],
    size: Annotated[
        int, typer.Option(help="Pixels a side that the model makes.", min=8, max=1024)
    ] = 32,
    fit: Fit = None,
    background: Background = None,
    held_out: HeldOut = None,
    contact_sheet: Annotated[
        Path, typer.Option(help="Where to draw the photos as a model will see them.")
    ] = SHEET,
    no_classes: NoClasses = False,
    follow_links: FollowLinks = False,
    max_megapixels: MaxMegapixels = None,
    json: output.Json = False,
) -> None:
    """Say what is in a folder: counts, sizes, copies, bad photos; and draw a contact sheet."""
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
    """Notes on stdout: what was understood is this verb's first line."""

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
    _show_groups("near-copies", report.near_copies, "one side of the split each")
    print(
        f"split: {report.train_count} to train on, {report.held_out_count} held out "
        f"({report.share:g}); {len(report.across)} near-copies across it"
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
        print(f"  few photos to learn a class from, kept where the family allows: {', '.join(few)}")
    if document["contact_sheet"]:
        print(f"contact sheet: {document['contact_sheet']}")


def _by_reason(bad: Sequence[Bad]) -> list[list[object]]:
    """One row for all photos of one code and one reason, whatever numbers it names; the most
    first.
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
            f"smaller: {shapes['smaller']} photos have fewer than {document['size']} pixels a side"
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
