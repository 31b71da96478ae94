"""Generators that another program made: how their folder is known, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UsageError
from .limits import check_numbers

MARKS = ("model_index.json", "config.json")  # of a folder: a pipeline, or one network alone
FLAGS = {"loras": "lora"}  # which is said once for each
# What is said of each kind of source that another program made.
OF_ONNX = frozenset({"inputs", "sampler", "output_range", "output"})
OF_FOLDER = frozenset(
    {"prompts", "negative", "loras", "guidance", "scheduler", "variant", "drop_safety_checker"}
)


def is_brought(folder: Path) -> bool:
    """Whether the folder looks like one of diffusers; what is in it is not read."""
    return any((folder / name).is_file() for name in MARKS)


def is_onnx(path: Path) -> bool:
    """Whether it is named as an ONNX file; what is in it is not read."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def refuse_onnx(source: str | Path) -> None:
    """UsageError where an ONNX file is asked for its layers."""
    if is_onnx(Path(source)):
        raise UsageError(
            "E-EXPLAIN",
            "this command examines layers with torch and cannot use an ONNX file",
            path=source,
        )


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
    # of an ONNX file, what each input is given: "x=noise", "t=timestep", "y=labels:10" or
    # "cond=FILE.npy"; nothing where there is one input, which is noise then
    inputs: tuple[str, ...] = ()
    # the loop around it: a sampler.json or a scheduler_config.json; None: one call makes the image
    sampler: Path | None = None
    output_range: tuple[float, float] | None = None  # of its pixels, where that is not -1 to 1
    output: str | None = None  # its output, where there are several

    def __post_init__(self) -> None:
        check_numbers(self)

    def __bool__(self) -> bool:
        return self != AS_IT_IS

    @property
    def first_flag(self) -> str:
        """The first that is said, as the command line calls it."""
        return self._flags()[0]

    def check_only(self, known: frozenset[str], what: str) -> None:
        """UsageError names a flag that is said and not known; what: the source that has no use for
        it.
        """
        if other := self._flags(known):
            raise UsageError("E-USAGE", f"{what} cannot use {other[0]}")

    def _flags(self, known: frozenset[str] = frozenset()) -> list[str]:
        said = (f.name for f in fields(self) if getattr(self, f.name) != getattr(AS_IT_IS, f.name))
        return [f"--{FLAGS.get(n, n).replace('_', '-')}" for n in said if n not in known]


AS_IT_IS = SourceChoices()
