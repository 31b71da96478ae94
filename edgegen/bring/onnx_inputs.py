"""What each input of an ONNX file is given: `name=noise`, `name=timestep`, `name=labels:10` or
`name=FILE.npy`, and how what a sampler gives becomes what the file takes.

A use is one class and one line in USES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core.conditions import CLASSES, NULL, Condition, Constants, Labels
from ..core.reader import read_bytes
from ..core.spec import Array, TensorSpec
from ..errors import InputError, UsageError
from .folder_files import CODE

BATCH = "batch"
CONSTANT_BYTES = 64 << 20  # largest file of an input's values
EXACT = 1 << 24  # largest magnitude of a whole number that float32 holds
Axes = tuple[int | None, ...]  # of one image: None for an axis that varies


@dataclass(frozen=True)
class FileInput:
    """As the file has it; shape: without its batch axis, None where it has no such axis;
    one_number: whether it has a single number for the whole batch.
    """

    name: str
    shape: Axes | None
    dtype: str
    one_number: bool = False


@dataclass(frozen=True)
class Step:
    """One ONNX operator on the way from a sampler's tensor to the file's; constants: its further
    inputs.
    """

    operator: str
    constants: tuple[np.ndarray, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedInput:
    """spec: as samplers give it; given: the same as the file takes it, for whoever executes the
    file as it was; steps: how the rewritten file makes one of the other.
    """

    name: str
    spec: TensorSpec
    given: Callable[[Array], np.ndarray]
    steps: tuple[Step, ...] = ()
    condition: Condition | None = None


class InputUse(Protocol):
    """One of the ways in which an input is given something."""

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        """InputError where the file's input is none for that; path: of the model."""


def _whole(found: FileInput) -> tuple[Step, ...]:
    """Samplers give float32, and some files take whole numbers."""
    return (Step("Cast", attributes={"to": 7}),) if found.dtype == "int64" else ()


def _sizes(found: FileInput, path: Path) -> tuple[int, ...]:
    """Of one image. InputError for an axis that varies."""
    if found.shape is None or None in found.shape:
        raise InputError(
            CODE,
            f"the input {found.name!r:.80} needs a batch axis first, and fixed sizes after it",
            path=path,
            hint=f"say the size where it is noise: {found.name}=noise:3x64x64",
        )
    return tuple(axis for axis in found.shape if axis is not None)


@dataclass(frozen=True)
class NoiseUse:
    """What images begin from; argument: sizes such as 3x64x64, where axes of the file vary."""

    argument: str = ""

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        sizes = _sizes(self._sized(found, path), path)
        if found.dtype != "float32" or not sizes:
            raise InputError(
                CODE, f"noise is float32 of two axes or more: {found.name!r:.80} is not", path=path
            )
        return FittedInput(found.name, TensorSpec("x", (BATCH, *sizes)), lambda x: x)

    def _sized(self, found: FileInput, path: Path) -> FileInput:
        """The input with the sizes that are said. UsageError where it has others."""
        if not self.argument or found.shape is None:
            return found
        words = self.argument.split("x")
        sizes = tuple(int(word) if word.isdecimal() and len(word) < 7 else 0 for word in words)
        if len(sizes) != len(found.shape) or not all(
            size and axis in (None, size) for size, axis in zip(sizes, found.shape, strict=True)
        ):
            wanted = "x".join("n" if axis is None else str(axis) for axis in found.shape)
            raise UsageError(
                "E-USAGE",
                f"--inputs: {found.name!r:.80} is {wanted} an image, and not {self.argument!r:.80}",
                path=path,
            )
        return replace(found, shape=sizes)


@dataclass(frozen=True)
class TimestepUse:
    """The timestep, one number an image; a file may take one for the whole batch instead."""

    argument: str = ""

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        spec, whole, kind = TensorSpec("t", (BATCH,)), _whole(found), found.dtype
        if found.one_number:
            axes = () if found.shape is None else (1,) * (1 + len(found.shape))
            place = np.zeros(axes or (), np.int64)
            steps = (Step("Gather", (place,), {"axis": 0}), *whole)
            return FittedInput(found.name, spec, lambda t: t[:1].reshape(axes).astype(kind), steps)
        sizes = _sizes(found, path)
        if any(size != 1 for size in sizes):
            raise InputError(
                CODE,
                f"a timestep is one number an image, and {found.name!r:.80} has {sizes}",
                path=path,
            )
        steps = whole
        if sizes:
            steps = (Step("Reshape", (np.array([-1, *sizes], np.int64),)), *whole)
        return FittedInput(found.name, spec, lambda t: t.reshape(-1, *sizes).astype(kind), steps)


@dataclass(frozen=True)
class LabelsUse:
    """A class an image: one-hot, or its number where the file takes whole numbers."""

    argument: str

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        classes = int(self.argument) if self.argument.isdecimal() else 0
        if not 1 <= classes <= CLASSES:
            raise UsageError(
                "E-USAGE", f"labels need their number, such as {found.name}=labels:10", path=path
            )
        spec, sizes = TensorSpec("label", (BATCH, classes)), _sizes(found, path)
        if found.dtype == "int64" and sizes == ():
            most = Step("ArgMax", attributes={"axis": 1, "keepdims": 0})
            return FittedInput(
                found.name, spec, lambda label: label.argmax(1), (most,), Labels(classes)
            )
        if found.dtype == "float32" and sizes == (classes,):
            return FittedInput(found.name, spec, lambda label: label, (), Labels(classes))
        raise InputError(
            CODE,
            f"{classes} labels are one-hot float32 of (batch, {classes}), or int64 of (batch,), "
            f"and {found.name!r:.80} is {found.dtype} of (batch, {', '.join(map(str, sizes))})",
            path=path,
        )


@dataclass(frozen=True)
class ConstantUse:
    """The same for all images: the values of a file, without the batch axis or with one of 1."""

    argument: str

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        source = Path(self.argument)
        values = read_array(source)
        axes = _sizes(found, path) if found.shape is None else found.shape
        if values.ndim == len(axes) + 1 and len(values) == 1:
            values = values[0]
        if values.ndim != len(axes) or any(
            axis not in (None, size) for axis, size in zip(axes, values.shape, strict=True)
        ):
            wanted = ", ".join("n" if axis is None else str(axis) for axis in axes)
            raise InputError(
                CODE,
                f"{found.name!r:.80} takes ({wanted}) an image, and the file holds {values.shape}",
                path=source,
            )
        if found.dtype == "int64" and not (values == np.rint(values)).all():
            raise InputError(CODE, f"{found.name!r:.80} takes whole numbers", path=source)
        name, kind = house_name(found.name), found.dtype
        try:
            constant = Constants({name: values})
        except ValueError as error:
            raise InputError(CODE, f"the values cannot be given: {error}", path=source) from error
        spec = TensorSpec(name, (BATCH, *values.shape))
        return FittedInput(
            found.name, spec, lambda value: value.astype(kind), _whole(found), constant
        )


USES: Mapping[str, Callable[[str], InputUse]] = {
    "noise": NoiseUse,
    "timestep": TimestepUse,
    "labels": LabelsUse,
}
TAKEN = (
    "guidance",
    "image",
    "predicted",
    "label",
    "x",
    "t",
)  # names that a graph of ours has already


def house_name(name: str) -> str:
    """A name that a manifest may hold: an identifier, and none that samplers give something
    else.
    """
    plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:60] or "given"
    is_free = plain.isidentifier() and plain not in TAKEN and not plain.startswith(NULL)
    return plain if is_free else f"given_{plain}"


def input_uses(said: Sequence[str], inputs: Sequence[str], path: Path) -> dict[str, InputUse]:
    """Of each input of the file, from `name=use` each. Nothing said means noise, where there is one
    input. UsageError where an input is given nothing, twice, or is none.
    """
    if not said and len(inputs) == 1:
        return {inputs[0]: NoiseUse()}
    found: dict[str, InputUse] = {}
    for text in said:
        name, is_pair, use = text.partition("=")
        if not is_pair or not use:
            raise UsageError("E-USAGE", f"--inputs: {text!r:.80} is not name=what")
        if name not in inputs:
            names = ", ".join(repr(one)[:80] for one in inputs)
            raise UsageError(
                "E-USAGE", f"--inputs: there is no input {name!r:.80}; there are {names}", path=path
            )
        if name in found:
            raise UsageError("E-USAGE", f"--inputs: {name!r:.80} is given something twice")
        found[name] = _use(use, name)
    if missing := [name for name in inputs if name not in found]:
        raise UsageError(
            "E-USAGE",
            f"nothing is said of what the input {missing[0]!r:.80} is given",
            path=path,
            hint=f"--inputs {missing[0]}=noise, timestep, labels:10 or FILE.npy, each once, with "
            "commas between",
        )
    if sum(isinstance(use, NoiseUse) for use in found.values()) != 1:
        raise UsageError("E-USAGE", "--inputs: one input is given noise, and no other", path=path)
    return found


def _use(text: str, name: str) -> InputUse:
    word, _, argument = text.partition(":")
    if word in USES and not (word == "timestep" and argument):
        return USES[word](argument)
    if text.endswith(".npy"):
        return ConstantUse(text)
    raise UsageError(
        "E-USAGE",
        f"--inputs: {name!r:.80} cannot be given {text!r:.80}",
        hint=f"say {', '.join(USES)}:N or FILE.npy",
    )


def read_array(path: Path) -> Array:
    """Numbers of a .npy file as float32; nothing is unpickled. InputError for anything else."""
    data = read_bytes(path, CONSTANT_BYTES, CODE)
    try:
        found = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(CODE, f"no .npy file of numbers: {error!s:.200}", path=path) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise InputError(CODE, "no .npy file of numbers", path=path)
    values: Array = found.astype(np.float32)
    if found.dtype.kind != "f" and found.size and np.abs(found.astype(np.float64)).max() > EXACT:
        raise InputError(CODE, f"it holds whole numbers beyond {EXACT}", path=path)
    return values
