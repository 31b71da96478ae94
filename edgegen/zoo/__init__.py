"""Pretrained generators that ship with edgegen: one folder each, with a card, weights, reference
statistics and a sample grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.files import JsonObject, read_json

ROOT = Path(__file__).parent
# beside weights: networks that never ship, for whoever trains on
COMPANIONS = "training.safetensors"


@dataclass(frozen=True)
class Entry:
    """One pretrained generator; the card is what `edgegen models` shows."""

    name: str
    folder: Path
    card: JsonObject

    @property
    def weights(self) -> Path:
        """float16 on disk, float32 in use."""
        return self.folder / "weights.safetensors"

    @property
    def companions(self) -> Path:
        """Networks that only training needs, such as a discriminator; not there for most."""
        return self.folder / COMPANIONS

    @property
    def reference(self) -> Path:
        """Projected feature statistics of held-out images that verdicts are measured against."""
        return self.folder / "reference.safetensors"

    @property
    def grid(self) -> Path:
        return self.folder / "grid.png"

    def to_json(self) -> JsonObject:
        """Its line of `edgegen models --json`."""
        return {**self.card, "name": self.name, "grid": str(self.grid)}


def entries() -> list[Entry]:
    """All of them, by name."""
    cards = sorted(ROOT.glob("*/card.json"))
    return [Entry(path.parent.name, path.parent, read_json(path)) for path in cards]
