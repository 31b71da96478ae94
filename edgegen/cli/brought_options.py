"""Flags for generators that another program made, shared by the verbs that take them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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


def source_choices(
    prompts: Path | None, lora: list[str] | None, drop_safety_checker: bool
) -> SourceChoices:
    """Of a verb that looks at a generator as its folder has it."""
    from ..workflows.source_choices import SourceChoices

    return SourceChoices(prompts, loras=tuple(lora or ()), drop_safety_checker=drop_safety_checker)
