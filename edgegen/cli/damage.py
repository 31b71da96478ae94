"""edgegen damage: show what INT8 did to a bundle's images, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.seeds import DAMAGE_MAP
from ..workflows import generators
from ..workflows.source_choices import refuse_onnx
from . import output
from .brought_options import DropSafetyChecker, Lora, Prompts, source_choices
from .options import Out, Overwrite, Regions, Threads, need_torch

SHOWN = 10  # layers in the table


def damage(
    what: Annotated[
        str,
        typer.Argument(
            help="Zoo name or run folder from which the bundle was exported.", metavar="SOURCE"
        ),
    ],
    bundle: Annotated[str, typer.Argument(help="Folder of the exported bundle.", metavar="BUNDLE")],
    out: Out,
    runtime: Annotated[
        str | None,
        typer.Option(help="Runtime whose INT8 images are examined (default: the bundle's first)."),
    ] = None,
    regions: Regions = "3x3",
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of the first image (default: the first of a set of seeds reserved for "
            "this command).",
            min=0,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of images.", min=1, max=1000)] = 16,
    label: Annotated[
        int | None, typer.Option(help="Class of the images (default: chosen by the seed).")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Skip the check that puts layers back to full precision."),
    ] = False,
    prompts: Prompts = None,
    lora: Lora = None,
    drop_safety_checker: DropSafetyChecker = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Show which layers, timesteps and image regions INT8 damages in a bundle."""
    need_torch()
    from ..workflows.damage_map import DamageSettings, map_damage

    settings = DamageSettings(
        runtime=runtime,
        regions=regions,
        first_seed=DAMAGE_MAP.first if seed is None else seed,
        seeds=seeds,
        label=label,
        quick=quick,
        threads=threads,
        overwrite=overwrite,
    )
    refuse_onnx(what)
    choices = source_choices(prompts, lora, drop_safety_checker)
    generator = generators.load_generator(what, output.terminal, choices)
    result = map_damage(generator, bundle, out, settings, output.terminal)
    output.table(*result.damaged.table(SHOWN))
    output.result("damage", result.to_json())
    print(f"report: {out / 'index.html'}")
