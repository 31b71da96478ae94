"""Flags that the verbs about training and photos share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

Family = Annotated[str, typer.Argument(help="Family, such as cas-dm.", metavar="FAMILY")]
Base = Annotated[str, typer.Argument(help="Zoo name or run folder to start from.", metavar="BASE")]
BaseIfNamed = Annotated[
    str | None,
    typer.Argument(
        help="Zoo name or run folder to start from (default: what is nearest to the photos).",
        metavar="[BASE]",
        show_default=False,
    ),
]
RunFolder = Annotated[
    Path | None, typer.Argument(help="Run folder to write.", metavar="RUN", show_default=False)
]
OutFlag = Annotated[Path | None, typer.Option("-o", "--out", help="The run folder as a flag.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Photos: a folder, a zip archive, IDX files or (train) tar shards."),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue the run bit for bit; its settings are recorded."),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="One of the family's recipes (default: its first).")
]
Images = Annotated[
    int | None, typer.Option(help="Training images to see instead of the recipe's.", min=1)
]
Batch = Annotated[int | None, typer.Option(help="Images a step (default: the recipe's).", min=1)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field of the config: steps=8.", metavar="NAME=VALUE"),
]
Centroids = Annotated[
    int | None,
    typer.Option("--kde-centroids", help="dkgm: keep this many centroids a class, not photos."),
]
HeldOut = Annotated[
    float | None,
    typer.Option(help="Share of the photos to hold out (default: 0.1, more of few photos)."),
]
Rate = Annotated[float | None, typer.Option(help="Adam's learning rate (default: the family's).")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of weights, order and noise (default 0).", min=0)
]
Device = Annotated[str | None, typer.Option(help="Train on cpu or cuda (default cpu).")]
Fit = Annotated[
    str | None,
    typer.Option(help="Photos that are not square: pad keeps all, crop the middle (default pad)."),
]
Background = Annotated[
    str | None,
    typer.Option(help="Colour under transparency and around padded photos (default white)."),
]
NoClasses = Annotated[
    bool,
    typer.Option("--no-classes", help="Take all photos without classes, whatever folders say."),
]
FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Follow symbolic links that stay inside the folder."),
]
MaxMegapixels = Annotated[
    int | None,
    typer.Option(help="Largest photo that is read (default: 256 for a JPEG, 64 for others)."),
]
OnBad = Annotated[str, typer.Option(help="Unreadable photos: skip (named in the report) or fail.")]


def run_folder(run: Path | None, out: Path | None, sentence: str) -> Path:
    """The run folder, named as an argument or as -o; UsageError with the sentence unless it is
    named once.
    """
    if (run is None) == (out is None):
        raise UsageError("E-USAGE", sentence)
    return run or out or Path()


def changes_of(changes: list[str] | None, centroids: int | None) -> tuple[str, ...]:
    """--set and --kde-centroids as changes of a config."""
    kept = [] if centroids is None else ["bank=centroids", f"kde_centroids={centroids}"]
    return (*(changes or []), *kept)
