"""Define the flags that several verbs share, and parse their values."""

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
# what has layers that torch knows
LayeredSource = Annotated[
    str, typer.Argument(help="Zoo name, run folder or diffusers folder.", metavar="SOURCE")
]
Runtimes = Annotated[
    str | None,
    typer.Option(help="Runtimes, separated by commas (default: all runtimes of the bundle)."),
]
Precision = Annotated[
    str, typer.Option(help="int8, or fp32 to use the bundle's full-precision graphs.")
]
Regions = Annotated[
    str,
    typer.Option(
        help="The regions: a grid (rows x columns), or a mask PNG with one colour for each region."
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", help="Folder to write; it appears only when it is complete.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result of edgegen at this path.")
]
Threads = Annotated[int, typer.Option(help="Number of CPU threads; 0 uses all cores.", min=0)]
Budget = Annotated[
    str, typer.Option(help="Largest allowed change of the FID, up or down, such as 2% or 0.02.")
]
MaxRuined = Annotated[
    str,
    typer.Option(
        help="Largest allowed share of ruined images, which look different at a glance, such as "
        "0.2% or 0.002."
    ),
]
MaxMoved = Annotated[
    str,
    typer.Option(
        help="Largest allowed movement of the images' features, as a share of the distance "
        "between two seeds, such as 5% or 0.05."
    ),
]
MaxApart = Annotated[
    str,
    typer.Option(
        help="Largest allowed distance between the INT8 and the full-precision set of images, as "
        "a share of the distance between two seeds, such as 0.5% or 0.005."
    ),
]
MinPsnr = Annotated[
    float,
    typer.Option(
        help="Smallest allowed PSNR between INT8 and full-precision images, in dB; a single "
        "class may be 3 dB lower.",
        min=0,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--feature-weights",
        help="Weight file (safetensors) of the feature network: Inception-v3, DINOv2 or CLIP "
        "(default: a network from an installed package).",
    ),
]
SecondJudge = Annotated[
    str | None,
    typer.Option(
        help="A second feature network that must reach the same verdict: open-nsfw, or a weight "
        "file as for --feature-weights."
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        help="Solver of the sampler: ddim or dpm++2m (second order, with the same number of "
        "calls); for dkgm: euler, heun or dpm++2m (default: the generator's solver).",
        metavar="NAME",
    ),
]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines", help="Run the bundle's GPU engines although no signature was checked."
    ),
]
AllowCpu = Annotated[
    bool,
    typer.Option(
        "--allow-cpu",
        help="If the runtime cannot run as requested, run on the CPU and print a note.",
    ),
]
PublicKey = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        help="Public key file, or a folder of keys: refuse a bundle that none of these keys "
        "signed. Repeat the option for each further key.",
    ),
]
LeastRelease = Annotated[
    int | None,
    typer.Option(
        "--least-release",
        help="Refuse a bundle whose signed release number is lower than this.",
        min=0,
    ),
]


def budget_of(text: str) -> float:
    """Return the value of --fid-budget as a number."""
    return share_of(text, "--fid-budget", "2%")


def ruined_of(text: str) -> float:
    """Return the value of --max-ruined as a number."""
    return share_of(text, "--max-ruined", "0.2%")


def moved_of(text: str) -> float:
    """Return the value of --max-moved as a number."""
    return share_of(text, "--max-moved", "5%")


def apart_of(text: str) -> float:
    """Return the value of --max-apart as a number."""
    return share_of(text, "--max-apart", "0.5%")


def share_of(text: str, flag: str, such_as: str) -> float:
    """Parse "2%" or "0.02" as 0.02. Raises UsageError unless it is above 0 and at most 1."""
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
    """Return the names in the value of a comma-separated option."""
    return tuple(name.strip() for name in text.split(","))
