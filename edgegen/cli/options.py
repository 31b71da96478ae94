"""Flags that several verbs share, and what their values mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..workflows.context import cores as cores
from ..workflows.generators import need_torch as need_torch

BundleFolder = Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")]
Source = Annotated[
    str,
    typer.Argument(help="Zoo name, run folder, diffusers folder or ONNX file.", metavar="SOURCE"),
]
Runtimes = Annotated[
    str | None,
    typer.Option(help="Runtimes, comma-separated (default: every one of the bundle)."),
]
Precision = Annotated[
    str, typer.Option(help="int8, or fp32 for the bundle's full-precision graphs.")
]
Regions = Annotated[
    str, typer.Option(help="A grid, rows x columns, or a mask PNG with one colour a part.")
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="Folder to write; appears whole or not at all.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result of edgegen.")
]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all cores.", min=0)]
Budget = Annotated[str, typer.Option(help="Largest change of the FID either way, as 2% or 0.02.")]
MaxRuined = Annotated[
    str,
    typer.Option(help="Share of images that may be told apart at a glance, as 0.2% or 0.002."),
]
MaxMoved = Annotated[
    str,
    typer.Option(
        help="How far images may move in features, as a share of how far two seeds are apart: 5% "
        "or 0.05."
    ),
]
MaxApart = Annotated[
    str,
    typer.Option(
        help="How far the two sets of images may be apart, as a share of the same: 0.5% or 0.005."
    ),
]
MinPsnr = Annotated[
    float,
    typer.Option(
        help="PSNR to the full-precision images that must be reached, in dB; one class may lie "
        "3 dB below.",
        min=0,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--feature-weights",
        help="Weight file of the feature network, safetensors: Inception-v3, DINOv2 or CLIP "
        "(default: a package's network).",
    ),
]
SecondJudge = Annotated[
    str | None,
    typer.Option(
        help="A second feature network that has to agree: open-nsfw, or a weight file as for "
        "--feature-weights."
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="How the sampler's steps are taken: ddim or dpm++2m (second order, as many calls); "
        "of dkgm euler, heun or dpm++2m (default: the generator's).",
        metavar="NAME",
    ),
]
TrustEngines = Annotated[
    bool,
    typer.Option("--trust-engines", help="Execute the bundle's GPU engines without a signature."),
]
AllowCpu = Annotated[
    bool,
    typer.Option("--allow-cpu", help="Let the CPU execute what cannot run as asked, and say so."),
]
PublicKey = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        help="Refuse a bundle that this key's owner did not sign; again for each further key, or "
        "the folder of them.",
    ),
]
LeastRelease = Annotated[
    int | None,
    typer.Option("--least-release", help="Refuse a bundle signed as an older release.", min=0),
]


def budget_of(text: str) -> float:
    """Of --fid-budget."""
    return share_of(text, "--fid-budget", "2%")


def ruined_of(text: str) -> float:
    """Of --max-ruined."""
    return share_of(text, "--max-ruined", "0.2%")


def moved_of(text: str) -> float:
    """Of --max-moved."""
    return share_of(text, "--max-moved", "5%")


def apart_of(text: str) -> float:
    """Of --max-apart."""
    return share_of(text, "--max-apart", "0.5%")


def share_of(text: str, flag: str, such_as: str) -> float:
    """ "2%" or "0.02" -> 0.02; UsageError unless it is above 0 and at most 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        plain = float(such_as.removesuffix("%")) / 100
        raise UsageError(
            "E-BUDGET", f"{flag} must be a share such as {such_as} or {plain:g}, got {text!r}"
        )
    return value


def names_of(text: str) -> tuple[str, ...]:
    """Names of a comma-separated option."""
    return tuple(name.strip() for name in text.split(","))
