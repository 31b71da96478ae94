"""Flags that several verbs share, and what their values mean."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RuntimeMissing, UsageError

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
