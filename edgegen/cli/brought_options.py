"""Flags for generators that another program made, shared by the verbs that take them."""

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
        help="Text file of prompts, one a line, for a generator that takes prompts: what it is "
        "calibrated and judged on, and what the bundle holds.",
    ),
]
Negative = Annotated[
    str | None, typer.Option(help="What its images should not show, where it runs with guidance.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="Adapter file to merge, and how much of it, such as shoes.safetensors:0.8; again for "
        "each further one.",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Strength of classifier-free guidance; 1 for none (default: its own).", min=0
    ),
]
Scheduler = Annotated[
    Path | None, typer.Option(help="A scheduler_config.json in place of the folder's.")
]
Variant = Annotated[
    str | None, typer.Option(help="Of the weights' files of a folder, such as fp16.")
]
DropSafetyChecker = Annotated[
    bool,
    typer.Option(
        "--drop-safety-checker",
        help="Leave out the folder's safety checker, which a bundle cannot hold.",
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        help="What each input of an ONNX file is given, such as x=noise,t=timestep,y=labels:10,"
        "cond=FILE.npy (default: noise, where there is one input)."
    ),
]
Sampler = Annotated[
    Path | None,
    typer.Option(
        help="The loop around an ONNX file: sampler.json, or a scheduler_config.json of diffusers "
        "(default: one call makes the image)."
    ),
]
OutputRange = Annotated[
    str | None,
    typer.Option(
        help="Smallest and largest value of a pixel as an ONNX file draws it, such as 0,1 "
        "(default: -1 to 1)."
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", help="The output of an ONNX file that has several, by name."),
]


def source_choices(
    prompts: Path | None, lora: list[str] | None, drop_safety_checker: bool
) -> SourceChoices:
    """Of a verb that looks at a generator as its folder has it."""
    from ..workflows.source_choices import SourceChoices

    return SourceChoices(prompts, loras=tuple(lora or ()), drop_safety_checker=drop_safety_checker)


def with_onnx(
    choices: SourceChoices,
    inputs: str | None,
    sampler: Path | None,
    output_range: str | None,
    output: str | None,
) -> SourceChoices:
    """The same with what is said of an ONNX file."""
    said = () if inputs is None else tuple(part.strip() for part in inputs.split(","))
    scale = None if output_range is None else _range(output_range)
    return replace(choices, inputs=said, sampler=sampler, output_range=scale, output=output)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            "E-USAGE", f"--output-range is two numbers such as 0,1, and not {text!r:.80}"
        ) from error
    return low, high
