"""What a generator starts from: noise and, for conditional families, a label; both are functions of
the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .noise import noise
from .spec import Array, TensorSpec


@dataclass(frozen=True)
class Latent:
    """noise: (batch, ...) standard normal; classes: number of labels, 0 for an unconditional
    generator.
    """

    noise: TensorSpec
    classes: int = 0

    def start(self, seeds: Sequence[int]) -> Array:
        """Start noise (len(seeds), ...)."""
        return noise(self.noise, seeds, "start")

    def condition(self, seeds: Sequence[int], label: int | None = None) -> dict[str, Array]:
        """One-hot labels (len(seeds), classes): `label` for all, or seed modulo classes, so that
        any run of seeds is balanced.
        """
        if label is not None and not 0 <= label < self.classes:
            wanted = (
                f"label must be in [0, {self.classes})"
                if self.classes
                else "this generator takes no label"
            )
            raise ValueError(f"{wanted}, got {label}")
        if not self.classes:
            return {}
        picks = [seed % self.classes if label is None else label for seed in seeds]
        labels = np.zeros((len(picks), self.classes), np.float32)
        labels[np.arange(len(picks)), picks] = 1
        return {"label": labels}
