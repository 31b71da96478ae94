"""Recognize generators that another program made, and hold what a user says about them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UsageError
from .limits import check_numbers

# files that mark a folder as a pipeline, or as one network alone
MARKS = ("model_index.json", "config.json")
FLAGS = {"loras": "lora"}  # field names whose flag is written once for each value
# The fields that apply to each kind of source from another program.
OF_ONNX = frozenset({"inputs", "sampler", "output_range", "output"})
OF_FOLDER = frozenset(
    {"prompts", "negative", "loras", "guidance", "scheduler", "variant", "drop_safety_checker"}
)


def is_brought(folder: Path) -> bool:
    """Return whether the folder looks like one of diffusers, without reading its files."""
    return any((folder / name).is_file() for name in MARKS)


def is_onnx(path: Path) -> bool:
    """Return whether the path is named like an ONNX file, without reading it."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def refuse_onnx(source: str | Path) -> None:
    """Raise UsageError if an ONNX file is asked for its layers."""
    if is_onnx(Path(source)):
        raise UsageError(
            "E-EXPLAIN",
            "this command examines layers with torch and cannot use an ONNX file",
            path=source,
        )


@dataclass(frozen=True)
class SourceChoices:
    """Hold what a user says about a generator from another program; None and empty keep what its
    folder says. Generators of edgegen take none of it.

    Raises UsageError for a number out of range.
    """

    # for a generator that takes prompts: a text file with one on each line, or the prompts
    # themselves
    prompts: Path | tuple[str, ...] | None = None
    negative: str | None = None  # what the images should not show
    # adapter files, merged in this order, each with its weight: shoes.safetensors:0.8
    loras: tuple[str, ...] = ()
    guidance: float | None = None  # strength of classifier-free guidance; 1 switches it off
    scheduler: Path | None = None  # a scheduler_config.json in place of the folder's
    variant: str | None = None  # variant of the weight files, such as fp16
    # leave the safety checker out, because a bundle cannot hold one
    drop_safety_checker: bool = False
    # what each input of an ONNX file is given: "x=noise", "t=timestep", "y=labels:10" or
    # "cond=FILE.npy"; empty for a single input, which is then noise
    inputs: tuple[str, ...] = ()
    # the loop around an ONNX file: a sampler.json or a scheduler_config.json; None: one call makes
    # the image
    sampler: Path | None = None
    # range of the ONNX file's pixels; None: -1 to 1
    output_range: tuple[float, float] | None = None
    output: str | None = None  # the output of the ONNX file that is the image, if it has several

    def __post_init__(self) -> None:
        check_numbers(self)

    def __bool__(self) -> bool:
        return self != AS_IT_IS

    @property
    def first_flag(self) -> str:
        """Return the first flag that was given, as the command line names it."""
        return self._flags()[0]

    def check_only(self, known: frozenset[str], what: str) -> None:
        """Raise UsageError for a flag that was given and is not in `known`; `what` names the source
        that has no use for it.
        """
        if other := self._flags(known):
            raise UsageError("E-USAGE", f"{what} cannot use {other[0]}")

    def _flags(self, known: frozenset[str] = frozenset()) -> list[str]:
        said = (f.name for f in fields(self) if getattr(self, f.name) != getattr(AS_IT_IS, f.name))
        return [f"--{FLAGS.get(n, n).replace('_', '-')}" for n in said if n not in known]


AS_IT_IS = SourceChoices()
