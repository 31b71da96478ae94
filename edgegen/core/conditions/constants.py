"""Inputs that are the same for all images, such as a control image or a strength's embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..files import JsonObject
from ..seeds import Use
from ..spec import Array
from .base import check_numbers


@dataclass(frozen=True, eq=False)
class Constants:
    """Inputs that are the same for all images; values: arrays by input, without the batch axis."""

    values: Mapping[str, np.ndarray] = field(repr=False)
    kind: str = "constants"

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("constants: there are none")
        for name, value in self.values.items():
            check_numbers(name, value, value.size)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def choices(self) -> int:
        return 0

    def of(self, seeds: Sequence[int], choice: int | None = None) -> dict[str, Array]:
        return {
            name: np.repeat(value[None].astype(np.float32, copy=False), len(seeds), axis=0)
            for name, value in self.values.items()
        }

    def names(self, use: Use | None) -> tuple[str, ...]:
        return ()

    def undivided(self) -> Constants:
        return self

    def to_json(self) -> JsonObject:
        return {"kind": self.kind, "inputs": list(self.values)}

    def arrays(self) -> Mapping[str, np.ndarray]:
        return self.values

    @classmethod
    def parsed(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Constants:
        """Make constants from a manifest. ValueError, KeyError or TypeError for invalid data."""
        fields = dict(data)
        return cls(values={name: arrays[name] for name in fields.pop("inputs")}, **fields)
