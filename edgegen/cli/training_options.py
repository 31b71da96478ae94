"""Define the flags that the verbs about training and photos share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

Family = Annotated[
    str, typer.Argument(help="Family of generators, such as cas-dm.", metavar="FAMILY")
]
Base = Annotated[str, typer.Argument(help="Zoo name or run folder to start from.", metavar="BASE")]
BaseIfNamed = Annotated[
    str | None,
    typer.Argument(
        help="Zoo name or run folder to start from (default: the zoo's generator that is nearest "
        "to the photos).",
        metavar="[BASE]",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path | None, typer.Argument(help="Run folder to write.", metavar="RUN", show_default=False)
]
OutFlag = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", help="Run folder to write, given as an option instead of an argument."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Photos: a folder, a zip archive or IDX files; `edgegen train` also takes tar shards."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue an interrupted run exactly, with the settings recorded in it."
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="Name of one of the family's recipes (default: the first)."),
]
Images = Annotated[
    int | None,
    typer.Option(help="Number of training images to process (default: the recipe's).", min=1),
]
Batch = Annotated[
    int | None,
    typer.Option(help="Number of images in a training step (default: the recipe's).", min=1),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change one field of the configuration, such as steps=8.",
        metavar="NAME=VALUE",
    ),
]
Centroids = Annotated[
    int | None,
    typer.Option(
        "--kde-centroids",
        help="For dkgm: store this many centroids for each class instead of the photos.",
    ),
]
HeldOut = Annotated[
    float | None,
    typer.Option(
        help="Share of the photos to hold out from training (default: 0.1, or more if there are "
        "few photos)."
    ),
]
Rate = Annotated[float | None, typer.Option(help="Learning rate of Adam (default: the family's).")]
Seed = Annotated[
    int | None,
    typer.Option(
        help="Seed of the weights, of the order of photos and of the noise (default 0).", min=0
    ),
]
Device = Annotated[str | None, typer.Option(help="Device to train on: cpu or cuda (default cpu).")]
Fit = Annotated[
    str | None,
    typer.Option(
        help="How to make photos square: pad adds background, crop keeps the middle (default pad)."
    ),
]
Background = Annotated[
    str | None,
    typer.Option(help="Colour behind transparent pixels and around padded photos (default white)."),
]
NoClasses = Annotated[
    bool,
    typer.Option("--no-classes", help="Ignore class folders and labels: train without classes."),
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Follow symbolic links whose target is inside the folder."),
]
MaxMegapixels = Annotated[
    int | None,
    typer.Option(
        help="Size of the largest photo to read, in megapixels (default: 256 for a JPEG, 64 for "
        "other formats)."
    ),
]
OnBad = Annotated[
    str,
    typer.Option(
        help="What to do with unreadable photos: skip (they are named in the report) or fail."
    ),
]


def run_folder(run: Path | None, out: Path | None, sentence: str) -> Path:
    """Return the run folder, given as an argument or with -o. Raises UsageError with the sentence
    unless it is given exactly once.
    """
    if (run is None) == (out is None):
        raise UsageError("E-USAGE", sentence)
    return run or out or Path()


def changes_of(changes: list[str] | None, centroids: int | None) -> tuple[str, ...]:
    """Return --set and --kde-centroids as changes of a config."""
    kept = [] if centroids is None else ["bank=centroids", f"kde_centroids={centroids}"]
    return (*(changes or []), *kept)
