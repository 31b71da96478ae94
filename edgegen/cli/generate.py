"""edgegen generate: make images from seeds with a zoo model, a run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import output
from .brought_options import (
    DropSafetyChecker,
    Inputs,
    Lora,
    Output,
    OutputRange,
    Sampler,
    source_choices,
    with_onnx,
)
from .options import AllowCpu, LeastRelease, Precision, PublicKey, Solver, TrustEngines


def generate(
    source: Annotated[
        str,
        typer.Argument(
            help="Zoo name, run folder, diffusers folder, ONNX file or bundle.", metavar="SOURCE"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A .png file for a single grid of images, or a folder for one PNG per seed.",
        ),
    ],
    seed: Annotated[
        int, typer.Option(help="Seed of the first image; each next image has the next seed.", min=0)
    ] = 0,
    count: Annotated[int, typer.Option("-n", "--count", help="Number of images.", min=1)] = 64,
    label: Annotated[
        int | None,
        typer.Option(help="Class of all images (default: the seed modulo the number of classes)."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Prompt for all images (default: the bundle's prompts in turn)."),
    ] = None,
    negative: Annotated[
        str | None,
        typer.Option(
            help="Negative prompt: what the images should not show, if the model accepts one."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Number of sampler steps, if the generator offers a choice.", min=1),
    ] = None,
    solver: Solver = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="Which of the generator's networks makes the images, such as teacher or student "
            "for lcd."
        ),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            help="A picture that the images must follow, of the kind that the model expects."
        ),
    ] = None,
    control_from: Annotated[
        Path | None, typer.Option(help="A photo from which to compute the picture for --control.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="A photo whose colours the images should take on.")
    ] = None,
    lora: Lora = None,
    drop_safety_checker: DropSafetyChecker = False,
    inputs: Inputs = None,
    sampler: Sampler = None,
    output_range: OutputRange = None,
    output_name: Output = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Runtime to run a bundle on (default: the bundle's first that works here)."
        ),
    ] = None,
    precision: Precision = "int8",
    threads: Annotated[int, typer.Option(help="Number of CPU threads.", min=1)] = 1,
    public_key: PublicKey = None,
    least_release: LeastRelease = None,
    trust_engines: TrustEngines = False,
    allow_cpu: AllowCpu = False,
    json: output.Json = False,
) -> None:
    """Make images from seeds: the same seed gives the same image on every runtime and machine."""
    from ..workflows.bundles import Execution
    from ..workflows.generate import GenerateSettings, generate_images
    from ..workflows.sampling_choices import SamplingChoices

    settings = GenerateSettings(
        seed,
        count,
        label,
        SamplingChoices(steps, way, control, control_from, like, solver),
        Execution(runtime, precision, threads, trust_engines, allow_cpu),
        public_key,
        least_release,
        prompt,
        negative,
        with_onnx(
            source_choices(None, lora, drop_safety_checker),
            inputs,
            sampler,
            output_range,
            output_name,
        ),
    )
    result = generate_images(source, out, settings, output.terminal)
    output.result("generate", result.to_json())
    print(f"{result.images} images by {result.executed_by}: {result.out}")
