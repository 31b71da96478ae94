"""The condition of class labels: a one-hot label for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files import JsonObject
from ..seeds import Use
from ..spec import Array
from .base import chosen

CLASSES = 100_000


@dataclass(frozen=True)
class Labels:
    """The one-hot input "label": class = seed modulo classes, so any run of seeds is balanced."""

    classes: int
    kind: str = "labels"

    def __post_init__(self) -> None:
        if type(self.classes) is not int or not 1 <= self.classes <= CLASSES:
            raise ValueError(f"there are 1 to {CLASSES} classes, got {self.classes!r}")

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("label",)

    @property
    def choices(self) -> int:
        return self.classes

    def of(self, seeds: Sequence[int], choice: int | None = None) -> dict[str, Array]:
        chosen(choice, self.classes, "label")
        picks = [seed % self.classes if choice is None else choice for seed in seeds]
        labels = np.zeros((len(picks), self.classes), np.float32)
        labels[np.arange(len(picks)), picks] = 1
        return {"label": labels}

    def names(self, use: Use | None) -> tuple[str, ...]:
        return tuple(map(str, range(self.classes)))

    def undivided(self) -> Labels:
        return self

    def to_json(self) -> JsonObject:
        return {"kind": self.kind, "classes": self.classes}

    def arrays(self) -> Mapping[str, np.ndarray]:
        return {}

    @classmethod
    def parsed(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Labels:
        """Make labels from a manifest. ValueError, KeyError or TypeError for invalid data."""
        return cls(**data)
