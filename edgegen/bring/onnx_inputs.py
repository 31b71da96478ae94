"""Define what each input of an ONNX file is given (`name=noise`, `name=timestep`, `name=labels:10`
or `name=FILE.npy`), and how a sampler's value becomes what the file takes.

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
EXACT = 1 << 24  # largest whole number up to which float32 is exact
Axes = tuple[int | None, ...]  # axes of one image; None for an axis that varies


@dataclass(frozen=True)
class FileInput:
    """Describe an input as the file has it.

    `shape` is without its batch axis, None if it has no such axis; `one_number`: it takes a single
    number for the whole batch.
    """

    name: str
    shape: Axes | None
    dtype: str
    one_number: bool = False


@dataclass(frozen=True)
class Step:
    """Describe one ONNX operator between a sampler's tensor and the file's input; `constants` are
    its further inputs.
    """

    operator: str
    constants: tuple[np.ndarray, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedInput:
    """Describe an input as samplers give it (`spec`).

    `given` converts it for the original file, and `steps` are the operators that do the same in the
    rewritten file.
    """

    name: str
    spec: TensorSpec
    given: Callable[[Array], np.ndarray]
    steps: tuple[Step, ...] = ()
    condition: Condition | None = None


class InputUse(Protocol):
    """Define one way to give an input its values."""

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        """Return the fitted input. Raises InputError if the file's input cannot be used so; `path`
        is the model's.
        """


def _whole(found: FileInput) -> tuple[Step, ...]:
    """Return a Cast for files that take whole numbers, because samplers give float32."""
    return (Step("Cast", attributes={"to": 7}),) if found.dtype == "int64" else ()


def _sizes(found: FileInput, path: Path) -> tuple[int, ...]:
    """Return the sizes of one image. Raises InputError for an axis that varies."""
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
    """Give an input the noise that images start from; `argument` has sizes such as 3x64x64, if the
    file's axes vary.
    """

    argument: str = ""

    def fitted(self, found: FileInput, path: Path) -> FittedInput:
        sizes = _sizes(self._sized(found, path), path)
        if found.dtype != "float32" or not sizes:
            raise InputError(
                CODE, f"noise is float32 of two axes or more: {found.name!r:.80} is not", path=path
            )
        return FittedInput(found.name, TensorSpec("x", (BATCH, *sizes)), lambda x: x)

    def _sized(self, found: FileInput, path: Path) -> FileInput:
        """Return the input with the sizes that the user gave. Raises UsageError if the file has
        others.
        """
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
    """Give an input the timestep, one number for each image; a file may take one for the whole
    batch instead.
    """

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
    """Give an input each image's class: one-hot, or its number if the file takes whole numbers."""

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
    """Give an input the same values for all images, from a file without the batch axis or with one
    of size 1.
    """

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
)  # names that edgegen's graphs use already


def house_name(name: str) -> str:
    """Return a name that a manifest may hold: an identifier that samplers do not use for something
    else.
    """
    plain = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:60] or "given"
    is_free = plain.isidentifier() and plain not in TAKEN and not plain.startswith(NULL)
    return plain if is_free else f"given_{plain}"


def input_uses(said: Sequence[str], inputs: Sequence[str], path: Path) -> dict[str, InputUse]:
    """Return the use of each input of the file, from texts `name=use`.

    Without texts, a single input is noise. Raises UsageError if an input has no use or two, or does
    not exist.
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
    """Read the numbers of a .npy file as float32, without unpickling. Raises InputError for
    anything else.
    """
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
