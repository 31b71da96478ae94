"""How a workflow runs, whatever it does: threads, the feature network, and who listens."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.progress import Listener, silent

if TYPE_CHECKING:
    from ..evidence.features import FeatureNetwork


@dataclass(frozen=True)
class MemoryShares:
    """What may be in memory at a time. images: of a batch at most, one for each thread;
    moments_bytes: of the second moments that rounding looks at; pixels_bytes: of images in full
    precision that are kept for later.
    """

    images: int = 64
    moments_bytes: int = 2 << 30
    pixels_bytes: int = 1 << 30


@dataclass(frozen=True)
class Context:
    """Passed down from a public function to everything that works for it."""

    threads: int = 1  # CPU threads, 1 or more
    feature_weights: Path | None = None  # of a network that is no package's
    listen: Listener = silent
    second_judge: FeatureNetwork | None = None  # that judges INT8 images as well, where asked for
    memory: MemoryShares = field(default_factory=MemoryShares)

    @classmethod
    def of(cls, threads: int, feature_weights: Path | None, listen: Listener) -> Context:
        """threads: 0 takes all cores that this process may use."""
        return cls(threads or cores(), feature_weights, listen)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
