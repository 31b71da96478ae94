"""Generators that another program made: how their folder is known, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from .limits import check_numbers

MARKS = ("model_index.json", "config.json")  # of a folder: a pipeline, or one network alone
FLAGS = {"loras": "lora"}  # which is said once for each


def is_brought(folder: Path) -> bool:
    """Whether the folder looks like one of diffusers; what is in it is not read."""
    return any((folder / name).is_file() for name in MARKS)


@dataclass(frozen=True)
class SourceChoices:
    """None and empty keep what the generator's own folder says; our own generators take none of
    it. Raises UsageError for a number out of range.
    """

    # for a generator that takes prompts: a text file, one a line, or the prompts themselves
    prompts: Path | tuple[str, ...] | None = None
    negative: str | None = None  # what its images should not show
    # adapter files, merged in this order, each with how much of it: shoes.safetensors:0.8
    loras: tuple[str, ...] = ()
    guidance: float | None = None  # strength of classifier-free guidance; 1 for none
    scheduler: Path | None = None  # a scheduler_config.json in place of the folder's
    variant: str | None = None  # of the weights' files, such as fp16
    drop_safety_checker: bool = False  # a bundle can hold none: leave it out

    def __post_init__(self) -> None:
        check_numbers(self)

    def __bool__(self) -> bool:
        return self != AS_IT_IS

    @property
    def first_flag(self) -> str:
        """The first that is said, as the command line calls it."""
        said = (f.name for f in fields(self) if getattr(self, f.name) != getattr(AS_IT_IS, f.name))
        name = next(said)
        return "--" + FLAGS.get(name, name).replace("_", "-")


AS_IT_IS = SourceChoices()
