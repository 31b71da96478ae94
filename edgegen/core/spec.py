"""Names, shapes and types of the tensors of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]
DTYPES = ("float32", "int64")  # numbers, and tokens of a text
# Types for code that uses only operators, so numpy gives numpy and torch gives torch. A device has
# no torch, so its type is only named. Values have axes; Numbers may also be a single number.
Values = TypeVar("Values", np.ndarray, "Tensor")
Numbers = TypeVar("Numbers", float, np.ndarray, "Tensor")


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a graph: a str in `shape` names an axis that may vary, e.g. "batch"."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"{self.name}: a tensor is {' or '.join(DTYPES)}, got {self.dtype!r}")
        if not self.name.isidentifier():
            raise ValueError(
                f"a tensor name must be an identifier (it becomes an ONNX input), got {self.name!r}"
            )
        for axis in self.shape:
            if isinstance(axis, int) and axis < 1:
                raise ValueError(f"{self.name}: axes must be positive, got {self.shape}")

    def sized(self, **axes: int) -> tuple[int, ...]:
        """Return the shape with its named axes filled in, as in sized(batch=4).

        KeyError names a missing axis.
        """
        return tuple(axes[a] if isinstance(a, str) else a for a in self.shape)

    @property
    def dynamic(self) -> dict[int, str]:
        """The name of each axis that may vary, by its index."""
        return {i: a for i, a in enumerate(self.shape) if isinstance(a, str)}
