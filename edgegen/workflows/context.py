"""Say how any workflow runs: its threads, its feature network, its memory and its listener."""

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
    """Limit what may be in memory at a time.

    `images` is the largest batch, one image for each thread; `moments_bytes` bounds the second
    moments that weight rounding uses, and `pixels_bytes` the full-precision images that are kept
    for later. The defaults equal MOST_BYTES of calibrate.rounding and KEPT_BYTES of
    evidence.full_side.
    """

    images: int = 64
    moments_bytes: int = 2 << 30
    pixels_bytes: int = 1 << 30


@dataclass(frozen=True)
class Context:
    """Carry what a public function passes down to everything that works for it."""

    threads: int = 1  # CPU threads, 1 or more
    feature_weights: Path | None = None  # weights file of a feature network that no package brings
    listen: Listener = silent
    # network that judges INT8 images too, if one is asked for
    second_judge: FeatureNetwork | None = None
    memory: MemoryShares = field(default_factory=MemoryShares)

    @classmethod
    def of(cls, threads: int, feature_weights: Path | None, listen: Listener) -> Context:
        """Make a context; `threads` = 0 takes all cores that this process may use."""
        return cls(threads or cores(), feature_weights, listen)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
