"""edgegen inspect: what a source is, and what edgegen makes of it."""

from __future__ import annotations

from . import output
from .brought_options import (
    DropSafetyChecker,
    Guidance,
    Inputs,
    Lora,
    Output,
    OutputRange,
    Sampler,
    Scheduler,
    Variant,
    with_onnx,
)
from .options import Source


def inspect(
    source: Source,
    lora: Lora = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    variant: Variant = None,
    drop_safety_checker: DropSafetyChecker = False,
    inputs: Inputs = None,
    sampler: Sampler = None,
    output_range: OutputRange = None,
    output_name: Output = None,
    json: output.Json = False,
) -> None:
    """Tell what a generator is, what an export of it takes, and what of it cannot be taken."""
    from ..workflows.inspect import inspect_source
    from ..workflows.source_choices import SourceChoices

    choices = SourceChoices(
        loras=tuple(lora or ()),
        guidance=guidance,
        scheduler=scheduler,
        variant=variant,
        drop_safety_checker=drop_safety_checker,
    )
    choices = with_onnx(choices, inputs, sampler, output_range, output_name)
    found = inspect_source(source, choices, output.terminal)
    output.result("inspect", found.to_json())
    channels, height, width = found.image
    takes = f"{found.classes} classes" if found.classes else "nothing but a seed"
    if found.prompt_tokens is not None:
        takes = f"prompts of {found.prompt_tokens} tokens at most: --prompts FILE"
    steps = f"{found.steps} step{'' if found.steps == 1 else 's'}"
    rows = [
        ["what", found.kind],
        ["parameters", ", ".join(f"{n} {count:,}" for n, count in found.parameters.items())],
        ["memory of an export", f"{found.peak_bytes / 1e9:.1f} GB at least"],
        ["images", f"{width} x {height} pixels, {channels} channels"],
        ["sampler", f"{found.solver}, {steps}, guidance {found.guidance:g}"],
        ["takes", takes],
        ["licence", found.licence or "none is named"],
    ]
    if found.bytes_stored is not None:
        rows.insert(2, ["weights on disk", f"{found.bytes_stored / 1e6:,.1f} MB"])
    if found.left_out:
        rows.append(["left out", ", ".join(found.left_out)])
    output.table(["", found.source], rows)
