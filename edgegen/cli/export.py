"""edgegen export: make a proven INT8 bundle from a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import GateFailed, UsageError
from . import output
from .brought_options import (
    DropSafetyChecker,
    Guidance,
    Inputs,
    Lora,
    Negative,
    Output,
    OutputRange,
    Prompts,
    Sampler,
    Scheduler,
    Variant,
    with_onnx,
)
from .options import (
    Budget,
    MaxApart,
    MaxMoved,
    MaxRuined,
    MinPsnr,
    Out,
    Overwrite,
    SecondJudge,
    Solver,
    Source,
    Threads,
    Weights,
    apart_of,
    budget_of,
    moved_of,
    names_of,
    need_torch,
    ruined_of,
)


def export(
    source: Source,
    out: Out,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize weights and activations to 8 bits.")
    ] = False,
    runtime: Annotated[
        str,
        typer.Option(
            help="Runtimes, separated by commas: onnxruntime, openvino, tensorrt-rtx, tensorrt."
        ),
    ] = "onnxruntime",
    fid_budget: Budget = "2%",
    min_psnr: MinPsnr = 35.0,
    max_ruined: MaxRuined = "0.2%",
    max_moved: MaxMoved = "5%",
    max_apart: MaxApart = "0.5%",
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference",
            help="Do not judge by the distance to a reference, because there is none or it shows "
            "other photos.",
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Photos to judge against, or a file with their statistics (default: the "
            "reference that came with the generator)."
        ),
    ] = None,
    prompts: Prompts = None,
    negative: Negative = None,
    lora: Lora = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    variant: Variant = None,
    drop_safety_checker: DropSafetyChecker = False,
    inputs: Inputs = None,
    sampler: Sampler = None,
    output_range: OutputRange = None,
    output_name: Output = None,
    plan: Annotated[Path | None, typer.Option(help="Use this plan and skip the search.")] = None,
    feeds: Annotated[
        Path | None,
        typer.Option(
            help="Folder of files to calibrate on, as for `edgegen calibrate --data` (default: "
            "the sampler's own trajectories)."
        ),
    ] = None,
    calibration: Annotated[
        int,
        typer.Option(help="Number of seeds whose trajectories are used for calibration.", min=8),
    ] = 128,
    time: Annotated[
        str | None,
        typer.Option(
            help="How long the whole export may take, such as 90m or 2h. The number of "
            "calibration seeds, of plans tried and of image pairs in the verdict is chosen to "
            "fit."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="How much memory the whole export may use, such as 8GB or 500MB. The number of "
            "images at once, the samples for rounding and the pixels kept are chosen to fit.  "
            "[default: half of the free memory]",
            show_default=False,
        ),
    ] = None,
    max_images: Annotated[
        int,
        typer.Option(
            help="Largest number of image pairs for a verdict; if they do not decide it, it "
            "stays undecided. Ruined images are counted in up to five times as many pairs, and "
            "the search uses up to half as many.",
            min=64,
        ),
    ] = 4000,
    protect_regions: Annotated[
        str | None,
        typer.Option(
            help="Regions to protect, such as 2,5: the layers whose rounding damages these "
            "regions most stay in full precision."
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            help="Layout for --protect-regions: a grid or a mask PNG.  [default: 3x3]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of sampler steps in the bundle, if the generator has steps.", min=1
        ),
    ] = None,
    solver: Solver = None,
    last_steps: Annotated[
        int | None,
        typer.Option(
            help="How many of the sampler's last steps a plan may run in FP32 (at most half of "
            "the steps). With 0, the device needs no FP32 weights.  [default: 1]",
            min=0,
            show_default=False,
        ),
    ] = None,
    threads: Threads = 0,
    weights: Weights = None,
    second_judge: SecondJudge = None,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Quantize a generator, build it for each runtime, prove that the INT8 images are as good, and
    publish the bundle; exit 3 if the images are not as good.
    """
    if not int8:
        raise UsageError("E-USAGE", "edgegen export needs a precision", hint="add --int8")
    if regions is not None and protect_regions is None:
        raise UsageError(
            "E-USAGE",
            "--regions has no meaning without --protect-regions",
            hint="add --protect-regions, such as 2,5",
        )
    need_torch()
    from ..workflows.export.run import ExportResult, ExportSettings, export_bundle
    from ..workflows.source_choices import SourceChoices
    from . import proof_table  # imports numpy

    choices = SourceChoices(
        prompts, negative, tuple(lora or ()), guidance, scheduler, variant, drop_safety_checker
    )
    settings = ExportSettings(
        runtimes=names_of(runtime),
        fid_budget=budget_of(fid_budget),
        min_psnr_db=min_psnr,
        max_ruined=ruined_of(max_ruined),
        max_moved=moved_of(max_moved),
        max_apart=apart_of(max_apart),
        no_reference=no_reference,
        time=time,
        memory=memory,
        max_images=max_images,
        plan=plan,
        feeds=feeds,
        calibration_samples=calibration,
        protect_regions=protect_regions,
        regions=regions or "3x3",
        steps=steps,
        solver=solver,
        last_steps=last_steps,
        threads=threads,
        feature_weights=weights,
        second_judge=second_judge,
        reference=reference,
        source=with_onnx(choices, inputs, sampler, output_range, output_name),
        overwrite=overwrite,
    )
    try:
        result = export_bundle(source, out, settings, output.terminal)
    except GateFailed as error:
        if isinstance(error.result, ExportResult):
            proof_table.show(error.result.proof)
        raise
    proof_table.show(result.proof)
    output.result("export", result.to_json())
    print(f"bundle: {out}  same seeds side by side: {out / 'evidence' / 'same-seeds.png'}")
