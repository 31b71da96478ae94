"""The order of photos in training, a function of seed, step and the number of photos.

No state is stored, so a resumed run, or one with another number of workers or processes, sees the
same photos at the same step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# number of photos that are shuffled together; a set up to that size is shuffled as a whole
WINDOW = 50_000


def mix(seed: int, step: int, use: str) -> int:
    """Return the seed of a random generator for one use at one step."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}/{step}/{use}".encode()).digest()[:8], "little") >> 1
    )


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int, use: str) -> np.ndarray:
    import torch  # imported here because `photos check` must not need it

    order: np.ndarray = torch.randperm(
        count, generator=torch.Generator().manual_seed(mix(seed, epoch, use))
    ).numpy()
    order.flags.writeable = False
    return order


def picks(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """Return the indices (size,) of the step's photos.

    Each epoch has a fresh permutation, and its last incomplete batch is left out.
    """
    epoch, place = divmod(step, count // size)
    return _permutation(count, seed, epoch, "order")[place * size : (place + 1) * size]


def share(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """Return the share of process `rank` of `world` in a batch: every world-th index from rank."""
    return indices[rank::world]


@dataclass(frozen=True)
class Shuffle:
    """The order of photos in shards: shards are shuffled, then photos within windows of that order.

    counts: number of photos in each shard. Like a shuffle buffer, a window limits how far apart in
    the files one batch reads, but it needs no memory and allows access to any step.
    """

    counts: tuple[int, ...]
    window: int = WINDOW

    def picks(self, size: int, step: int, seed: int) -> np.ndarray:
        """Return indices (size,), counted through the shards in their own order.

        Each photo comes at most once per epoch.
        """
        total = sum(self.counts)
        epoch, place = divmod(step, total // size)
        places = np.arange(place * size, (place + 1) * size)
        for window in np.unique(places // self.window).tolist():
            start, mine = window * self.window, places // self.window == window
            # With one shard in one window, the order equals that of the same photos in memory.
            use = f"order/{window}" if window else "order"
            places[mine] = (
                start
                + _permutation(min(self.window, total - start), seed, epoch, use)[
                    places[mine] - start
                ]
            )
        shards = _permutation(len(self.counts), seed, epoch, "shards")
        counts = np.array(self.counts)
        ends, first = np.cumsum(counts[shards]), np.cumsum(counts) - counts
        k = np.searchsorted(ends, places, side="right")
        return first[shards[k]] + places - (ends[k] - counts[shards[k]])
