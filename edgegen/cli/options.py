"""Flags that several verbs share, and what their values mean."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import RuntimeMissing, UsageError

if TYPE_CHECKING:
    from ..training.photos import Fit as Fitted

Out = Annotated[
    Path, typer.Option("-o", "--out", help="Folder to write; appears whole or not at all.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result of edgegen.")
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all cores.", min=0)]
Budget = Annotated[str, typer.Option(help="Largest change of the FID either way, as 2% or 0.02.")]
Weights = Annotated[
    Path | None,
    typer.Option("--feature-weights", help="Inception-v3 weight file; else a package's network."),
]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines", help="Execute the bundle's GPU engines: you know who built them."
    ),
]
AllowCpu = Annotated[
    bool,
    typer.Option("--allow-cpu", help="Execute on the CPU, and say so, what cannot run as asked."),
]
PublicKey = Annotated[
    Path | None,
    typer.Option("--public-key", help="Refuse a bundle that this key's owner did not sign."),
]

Fit = Annotated[
    str | None,
    typer.Option(
        help="Photos that are not square: pad keeps all, crop the middle; pad, if not said."
    ),
]
Background = Annotated[
    str | None,
    typer.Option(help="Under transparency and around padded photos; white, if not said."),
]
OnBad = Annotated[
    str, typer.Option(help="What a photo that cannot be read does: skip (and name it) or fail.")
]


def on_bad_of(word: str) -> Literal["skip", "fail"]:
    """--on-bad."""
    if word not in ("skip", "fail"):
        raise UsageError("E-USAGE", f"--on-bad must be skip or fail, got {word!r}")
    return "fail" if word == "fail" else "skip"


def fit_of(word: str | None) -> Fitted:
    """--fit, or pad."""
    if word not in ("pad", "crop", None):
        raise UsageError("E-USAGE", f"--fit must be pad or crop, got {word!r}")
    return "crop" if word == "crop" else "pad"


def hex_of(name: str | None) -> str:
    """--background, or white, as #rrggbb: two names of one colour are one setting. UsageError for
    no colour.
    """
    from ..training.data import colour

    return "#{:02x}{:02x}{:02x}".format(*colour(name or "white"))


def budget_of(text: str) -> float:
    """ "2%" or "0.02" -> 0.02; UsageError unless it is above 0 and at most 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise UsageError(
            "E-BUDGET", f"--fid-budget must be a share such as 2% or 0.02, got {text!r}"
        )
    return value


def need_torch() -> None:
    """RuntimeMissing with the command that installs it, where a verb works on a trained generator
    and torch is not here.
    """
    from ..export.packages import absent

    if why := absent("torch", "train"):
        raise RuntimeMissing(
            "E-BACKEND", f"trained generators run on torch: {why}", hint="on a device, use a bundle"
        )


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def names_of(text: str) -> tuple[str, ...]:
    """Names of a comma-separated option."""
    return tuple(name.strip() for name in text.split(","))
