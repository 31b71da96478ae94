"""edgegen photos check: what is in a folder of photos, and what becomes of it, before anything is
trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..workflows.photo_sets import FEWEST
from . import output
from .options import Background, Fit, fit_of, hex_of

if TYPE_CHECKING:
    import numpy as np

    from ..training.data import Survey

SHOWN = 20  # groups in the text; --json has all
SHEET = Path("contact-sheet.png")
MEANING = {  # of the codes that photos are used with
    "W-IMG-TURNED": "turned upright, as its EXIF says",
    "W-IMG-CMYK": "print colours (CMYK) made RGB: look at them on the sheet",
    "W-IMG-ALPHA": "transparent: put on the background",
    "W-IMG-DEPTH": "more than 8 bits a channel: scaled to 8",
    "W-IMG-PALETTE": "a palette of at most 256 colours",
    "W-IMG-FRAMES": "several frames or pages: the first is used",
    "W-DATA-DUP": "equal to another photo",
    "W-DATA-DUP-CLASS": "one picture in several classes: the first one's counts",
    "W-DATA-CLASS-EMPTY": "a class folder without photos: no class",
    "W-DATA-CLASS-CASE": "classes that differ by upper and lower case alone",
    "W-DATA-IGNORED": "no photo by its name: passed over",
    "W-DATA-NOT-FILE": "no regular file: never opened",
    "W-META-UNLISTED": "not in metadata.jsonl: passed over",
    "W-META-CAPTIONS": "nearly each text is a class of its own: write a label beside it",
}

photos = typer.Typer(help="Look at photos before anything is trained on them.")


@photos.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="Class folders, metadata.jsonl or IDX files.", metavar="PHOTOS")
    ],
    size: Annotated[
        int, typer.Option(help="Pixels a side that the model makes.", min=8, max=1024)
    ] = 32,
    fit: Fit = None,
    background: Background = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share that is not trained on; else as finetune takes it.")
    ] = None,
    contact_sheet: Annotated[
        Path, typer.Option(help="Where to draw the photos as a model will see them.")
    ] = SHEET,
    json: output.Json = False,
) -> None:
    """Say what is in a folder: counts, sizes, copies, bad photos; and draw a contact sheet."""
    from ..core.images import save_png
    from ..training.data import survey
    from ..training.shards import find
    from ..training.sheet import sheet

    fitted, ground = fit_of(fit), hex_of(background)
    if held_out is not None and not 0 < held_out < 1:
        raise UsageError("E-USAGE", f"--held-out must be above 0 and below 1, got {held_out}")
    _can_draw(contact_sheet, folder)
    if find(folder):
        raise UsageError(
            "E-DATA-SHARDS",
            "tar shards are checked while they are read, not before",
            path=folder,
            hint="`edgegen train` names every photo of theirs that cannot be used",
        )
    with output.progress("reading photos") as advance:
        seen = survey(folder, size, ground, fit=fitted, progress=lambda _, __: advance(1))
    with output.progress("comparing photos"):
        found = _compared(seen, held_out)
    if len(seen.photos):
        save_png(contact_sheet, sheet(seen.photos, found.held, found.groups))
    document = _document(seen, found, size, contact_sheet)
    _tell(seen, found, document)
    if seen.refusal is not None:
        seen.refusal.details.update(document)
        raise seen.refusal
    output.result("photos check", document)


@dataclass(frozen=True)
class _Compared:
    """groups: indices of near-copies; held: (n,) bool, the share that is held out; across: those
    with a near-copy in training.
    """

    groups: list[list[int]]
    share: float
    held: np.ndarray
    across: list[str]

    @property
    def smaller(self) -> int:
        """Photos of the side that has fewer."""
        return int(min(self.held.sum(), (~self.held).sum()))


def _compared(seen: Survey, held_out: float | None) -> _Compared:
    """Sides as finetune takes them: with the share that is said, else the smallest of its SHARES
    that holds out enough.
    """
    import numpy as np

    from ..evidence.small_sample_distance import LEAST
    from ..training.copies import near_groups
    from ..training.split import sides
    from ..workflows.finetune.setup import SHARES

    groups = near_groups(seen.photos.pixels)
    for share in SHARES if held_out is None else (held_out,):
        held = sides(seen.photos, share, groups) if len(seen.photos) else np.zeros(0, bool)
        if min(held.sum(), (~held).sum()) >= LEAST:
            break
    across = [
        seen.names[k]
        for group in groups
        if 0 < held[group].sum() < len(group)
        for k in group
        if held[k]
    ]
    return _Compared(groups, share, held, across)


def _can_draw(target: Path, folder: Path) -> None:
    """UsageError where the sheet cannot be or would be the next photo of the folder."""
    if target.suffix.lower() != ".png" or not target.parent.is_dir():
        raise UsageError(
            "E-OUT", "--contact-sheet must be a .png in a folder that exists", path=target
        )
    if target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            "E-OUT",
            "the contact sheet would lie among the photos",
            path=target,
            hint="name another place: --contact-sheet FILE.png",
        )


def _document(seen: Survey, found: _Compared, size: int, contact_sheet: Path) -> dict[str, Any]:
    from ..training import sizes

    report, held, count = seen.report, int(found.held.sum()), len(seen.photos)
    enough, why = _enough(seen, found)
    shapes = {
        **sizes.shapes(report.sizes),
        "smaller": sizes.smaller(report.sizes, size, report.fit),
    }
    return {
        "usable": seen.refusal is None,
        "size": size,
        "photos": report.to_json(),
        "bad_counts": dict(sorted(Counter(bad.code for bad in report.bad).items())),
        "shapes": shapes,
        "near_copies": [[seen.names[k] for k in group] for group in found.groups],
        "split": {
            "held_out_share": found.share,
            "train": count - held,
            "held_out": held,
            "copies_across": found.across,
        },
        "fine_tuning": {"enough": enough, "why": why, "drawn_as_one": _together(seen, found)},
        "contact_sheet": str(contact_sheet) if count else None,
    }


def _enough(seen: Survey, found: _Compared) -> tuple[bool, str]:
    """Whether finetune takes them, and why."""
    from ..evidence.small_sample_distance import LEAST
    from ..training.split import different

    count, held = len(seen.photos), int(found.held.sum())
    if seen.refusal is not None:
        return False, "not as the folder is"
    if count < 2 * FEWEST:
        return False, f"too few: {count} photos, {2 * FEWEST} are needed"
    if found.smaller < LEAST:
        return False, (
            f"too few: {count - held} to train on and {held} held out, {LEAST} of each are needed; "
            f"{different(count, found.groups)} of the {count} photos are different ones"
        )
    return True, f"enough: {count - held} photos to train on, {held} held out"


def _together(seen: Survey, found: _Compared) -> list[str]:
    """Classes with few photos to train on, that finetune draws as one."""
    from ..training.data import Photos
    from ..workflows.finetune.setup import gathered

    photos, train = seen.photos, ~found.held
    if seen.refusal is not None or not train.any():
        return []
    kept = gathered(Photos(photos.pixels[train], photos.labels[train], photos.classes)).classes
    return [name for name in photos.classes if name not in kept]


def _tell(seen: Survey, found: _Compared, document: dict[str, Any]) -> None:
    """The document for people."""
    from ..training.data import shown

    report, names = seen.report, seen.names
    dropped = report.found - report.kept - len(report.bad)
    print(
        f"photos: {report.found} found, {report.kept} used, {len(report.bad)} bad, {dropped} left "
        "out as duplicates"
    )
    if report.classes:
        held = Counter(seen.photos.labels[found.held].tolist())
        output.table(
            ["class", "photos", "held out"],
            [
                [shown(name), report.classes[name], held[k]]
                for k, name in enumerate(seen.photos.classes)
            ],
        )
    if report.sizes:
        _tell_sizes(document)
    _tell_groups(
        "duplicates", [list(map(shown, group)) for group in report.duplicates], "equal pixels"
    )
    _tell_groups(
        "near-copies",
        [[shown(names[k]) for k in group] for group in found.groups],
        "one side of the split each",
    )
    print(
        f"split: {document['split']['train']} to train on, {document['split']['held_out']} held "
        "out "
        f"({found.share:g}); {len(found.across)} near-copies across it"
    )
    if report.warnings:
        output.table(
            ["what", "files", "means", "such as"],
            [
                [code, len(files), MEANING[code], shown(files[0])]
                for code, files in report.warnings.items()
            ],
        )
    if report.bad:
        print(
            "bad: " + ", ".join(f"{count} {code}" for code, count in document["bad_counts"].items())
        )
        output.table(
            ["bad photo", "code", "why"],
            [[shown(bad.name), bad.code, bad.reason] for bad in report.bad],
        )
    print(f"fine-tuning: {document['fine_tuning']['why']}")
    if together := document["fine_tuning"]["drawn_as_one"]:
        print(
            f"  too small for classes of their own, drawn as one: {', '.join(map(shown, together))}"
        )
    if document["contact_sheet"]:
        print(f"contact sheet: {document['contact_sheet']}")


def _tell_sizes(document: dict[str, Any]) -> None:
    spread, shapes, fit = document["photos"]["sizes"], document["shapes"], document["photos"]["fit"]
    rows = [
        [name, *(f"{spread[name][part]:.4g}" for part in ("min", "median", "max"))]
        for name in ("width", "height", "ratio")
    ]
    output.table(["pixels", "least", "median", "most"], rows)
    print("shapes: {square} square, {wide} wide, {tall} tall".format(**shapes))
    if shapes["max_cost"]:
        does = {
            "pad": "padded: the background fills {mean_cost:.0%} of their squares on average, "
            "{max_cost:.0%} at most; "
            "--fit crop would cut as much away",
            "crop": "cropped: {mean_cost:.0%} of each is cut away on average, {max_cost:.0%} at "
            "most; "
            "--fit pad would keep all, on the background",
        }[fit]
        print(f"those that are not square are {does}".format(**shapes))
    if shapes["smaller"]:
        print(
            f"smaller: {shapes['smaller']} photos have fewer than {document['size']} pixels a side"
        )


def _tell_groups(title: str, groups: Sequence[Sequence[str]], what: str) -> None:
    if not groups:
        print(f"{title}: none")
        return
    print(
        f"{title}: {sum(map(len, groups))} photos in {len(groups)} "
        f"{'groups' if len(groups) > 1 else 'group'} ({what})"
    )
    for group in groups[:SHOWN]:
        print("  " + "  ".join(group))
    if len(groups) > SHOWN:
        print(f"  and {len(groups) - SHOWN} more groups; --json has all")
