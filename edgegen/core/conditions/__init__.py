"""Conditions: inputs beside the noise that tell the graphs which image is wanted. (numpy only)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .base import NULL, Condition
from .constants import Constants
from .labels import CLASSES, Labels
from .prompts import Prompts, check_prompt, shown

__all__ = [
    "CLASSES",
    "CONDITIONS",
    "NULL",
    "Condition",
    "Constants",
    "Labels",
    "Prompts",
    "check_prompt",
    "conditions_from_json",
    "labels",
    "shown",
]

CONDITIONS: dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Condition]] = {
    "constants": Constants.parsed,
    "labels": Labels.parsed,
    "prompts": Prompts.parsed,
}


def labels(classes: int) -> tuple[Condition, ...]:
    """Return the conditions of a generator with that many classes; none for 0 classes."""
    return (Labels(classes),) if classes else ()


def conditions_from_json(
    data: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[Condition, ...]:
    """Make conditions from a manifest and the arrays beside it. ValueError says what is wrong."""
    try:
        found = tuple(CONDITIONS[one["kind"]](one, arrays) for one in data)
    except (KeyError, TypeError, ValueError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"a condition cannot be used: {what}") from error
    if unused := sorted(arrays.keys() - {name for one in found for name in one.arrays()}):
        raise ValueError(f"no condition has the array {unused[0][:64]!r}")
    return found
