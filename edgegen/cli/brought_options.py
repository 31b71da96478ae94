"""Define the flags for generators that another program made, shared by the verbs that take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..workflows.source_choices import SourceChoices

Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="Text file with one prompt on each line, for a generator that takes prompts. It is "
        "calibrated and judged on these prompts, and the bundle contains them.",
    ),
]
Negative = Annotated[
    str | None,
    typer.Option(
        help="Negative prompt: what the images should not show, if the generator uses guidance."
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="LoRA adapter file to merge and its strength, such as shoes.safetensors:0.8. Repeat "
        "the option for each further adapter.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Strength of classifier-free guidance; 1 means none (default: the generator's own).",
        min=0,
    ),
]
Scheduler = Annotated[
    Path | None, typer.Option(help="A scheduler_config.json to use instead of the folder's.")
]
Variant = Annotated[
    str | None, typer.Option(help="Variant of the weight files in the folder, such as fp16.")
]
DropSafetyChecker = Annotated[
    bool,
    typer.Option(
        "--drop-safety-checker",
        help="Leave out the folder's safety checker, which a bundle cannot contain.",
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        help="What to feed to each input of an ONNX file, such as "
        "x=noise,t=timestep,y=labels:10,cond=FILE.npy (default: noise, if there is only one "
        "input)."
    ),
]
Sampler = Annotated[
    Path | None,
    typer.Option(
        help="The sampler for an ONNX file: a sampler.json, or a scheduler_config.json of "
        "diffusers (default: a single call makes the image)."
    ),
]
OutputRange = Annotated[
    str | None,
    typer.Option(
        help="Smallest and largest pixel value in the output of an ONNX file, such as 0,1 "
        "(default: -1 to 1)."
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", help="Name of the image output, if an ONNX file has several outputs."),
]


def source_choices(
    prompts: Path | None, lora: list[str] | None, drop_safety_checker: bool
) -> SourceChoices:
    """Return the choices of a verb that examines a generator as it is in its folder."""
    from ..workflows.source_choices import SourceChoices

    return SourceChoices(prompts, loras=tuple(lora or ()), drop_safety_checker=drop_safety_checker)


def with_onnx(
    choices: SourceChoices,
    inputs: str | None,
    sampler: Path | None,
    output_range: str | None,
    output: str | None,
) -> SourceChoices:
    """Return the choices with those about an ONNX file added."""
    said = () if inputs is None else tuple(part.strip() for part in inputs.split(","))
    scale = None if output_range is None else _range(output_range)
    return replace(choices, inputs=said, sampler=sampler, output_range=scale, output=output)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            "E-USAGE", f"--output-range must be two numbers such as 0,1, got {text!r:.80}"
        ) from error
    return low, high
