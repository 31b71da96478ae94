"""The interface of conditions: named inputs of the graphs, beside noise and time, that depend on
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..files import JsonObject
from ..seeds import Use
from ..spec import Array

NUMBERS = 1 << 22  # most values of one input for one image
NULL = "null_"  # prefix of the input that replaces another one in the unconditional branch


class Condition(Protocol):
    """Inputs that tell the graphs which image is wanted.

    They follow from the seed unless a choice is given by number; row k depends only on seeds[k].
    """

    @property
    def kind(self) -> str:
        """The kind's name in a manifest."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs that it gives."""

    @property
    def choices(self) -> int:
        """The number of labels or prompts that seeds cycle through; 0 without a choice."""

    def of(self, seeds: Sequence[int], choice: int | None = None) -> dict[str, Array]:
        """Return arrays by input, with one row per seed.

        choice: number of the label or prompt for all rows. ValueError if it does not exist.
        """

    def names(self, use: Use | None) -> tuple[str, ...]:
        """Return the names of the choices that seeds of that use cycle through.

        Seed s shows the one at index s modulo their number.
        """

    def undivided(self) -> Condition:
        """Return this condition without a division by use: any seed may show any choice."""

    def to_json(self) -> JsonObject:
        """Return the condition's entry in a manifest, without its `arrays`."""

    def arrays(self) -> Mapping[str, np.ndarray]:
        """Return the arrays that it holds, by input."""


def chosen(choice: int | None, choices: int, what: str) -> None:
    """Raise ValueError unless `choice` is None or in [0, choices); `what` names it."""
    if choice is not None and not 0 <= choice < choices:
        raise ValueError(f"{what} must be in [0, {choices}), got {choice}")


def check_numbers(name: str, values: np.ndarray, numbers: int) -> None:
    """Raise ValueError unless the input has a valid name, type and size, and finite values.

    numbers: its number of values for one image.
    """
    if not name.isidentifier():
        raise ValueError(f"an input's name must be an identifier, got {name[:64]!r}")
    if values.dtype not in (np.float32, np.float16):
        raise ValueError(f"{name} must be float32 or float16, got {values.dtype}")
    if not 0 < numbers <= NUMBERS:
        raise ValueError(f"{name} has {numbers} numbers an image, and 1 to {NUMBERS} are possible")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values")
