"""What every condition is: named inputs of the graphs beside noise and time, as a function of the
seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..files import JsonObject
from ..seeds import Use
from ..spec import Array

NUMBERS = 1 << 22  # most numbers of one input for one image
NULL = "null_"  # before an input's name: what stands in its place where nothing is asked for


class Condition(Protocol):
    """Tells the graphs which image is wanted. What it gives follows from the seed, unless one of
    its choices is asked for by number; row k depends on seeds[k] alone.
    """

    @property
    def kind(self) -> str:
        """Its name in a manifest."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what it gives."""

    @property
    def choices(self) -> int:
        """Labels or prompts that seeds go round; 0 where there is nothing to choose."""

    def of(self, seeds: Sequence[int], choice: int | None = None) -> dict[str, Array]:
        """By input, a row a seed; of that choice for all, where one is asked for. ValueError for
        one that there is not.
        """

    def names(self, use: Use | None) -> tuple[str, ...]:
        """Of the choices that seeds of that use go round: seed s shows the one at s modulo their
        number.
        """

    def undivided(self) -> Condition:
        """The same, whose every seed may show every choice."""

    def to_json(self) -> JsonObject:
        """What a manifest says of it, `arrays` apart."""

    def arrays(self) -> Mapping[str, np.ndarray]:
        """What it holds in numbers, by input."""


def chosen(choice: int | None, choices: int, what: str) -> None:
    """ValueError where a choice is asked for that there is not."""
    if choice is not None and not 0 <= choice < choices:
        raise ValueError(f"{what} must be in [0, {choices}), got {choice}")


def check_numbers(name: str, values: np.ndarray, numbers: int) -> None:
    """ValueError for an input that no graph has, or that is no finite number; numbers: of it for
    one image.
    """
    if not name.isidentifier():
        raise ValueError(f"an input's name must be an identifier, got {name[:64]!r}")
    if values.dtype not in (np.float32, np.float16):
        raise ValueError(f"{name} must be float32 or float16, got {values.dtype}")
    if not 0 < numbers <= NUMBERS:
        raise ValueError(f"{name} has {numbers} numbers an image, and 1 to {NUMBERS} are possible")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values")
