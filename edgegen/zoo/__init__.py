"""The pretrained generators that ship with edgegen, each in a folder with a card, weights,
reference statistics and a sample grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.files import JsonObject, read_json

ROOT = Path(__file__).parent
# file beside the weights with networks that never ship, for training further
COMPANIONS = "training.safetensors"


@dataclass(frozen=True)
class Entry:
    """One pretrained generator; `edgegen models` shows its card."""

    name: str
    folder: Path
    card: JsonObject

    @property
    def weights(self) -> Path:
        """The path of the weights, which are float16 on disk and float32 in use."""
        return self.folder / "weights.safetensors"

    @property
    def companions(self) -> Path:
        """The path of networks that only training needs, such as a discriminator; for most
        generators the file does not exist.
        """
        return self.folder / COMPANIONS

    @property
    def reference(self) -> Path:
        """The path of the projected feature statistics of held-out images, the reference of
        verdicts.
        """
        return self.folder / "reference.safetensors"

    @property
    def grid(self) -> Path:
        return self.folder / "grid.png"

    def to_json(self) -> JsonObject:
        """Return its entry in `edgegen models --json`."""
        return {**self.card, "name": self.name, "grid": str(self.grid)}


def entries() -> list[Entry]:
    """Return all pretrained generators, by name."""
    cards = sorted(ROOT.glob("*/card.json"))
    return [Entry(path.parent.name, path.parent, read_json(path)) for path in cards]
