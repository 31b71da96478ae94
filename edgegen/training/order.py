"""Which photo comes when: a function of (seed, step) and of how many photos there are, so that any
step can be asked for again.

No state is kept or stored: a resumed run, another number of workers or of processes sees the same
photos at the same step.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# photos that are shuffled among each other; a set up to that size is shuffled as a whole
WINDOW = 50_000


def mix(seed: int, step: int, use: str) -> int:
    """A random generator's seed for one use at one step: a function of nothing else."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}/{step}/{use}".encode()).digest()[:8], "little") >> 1
    )


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int, use: str) -> np.ndarray:
    import torch  # here: `photos check` needs none

    order: np.ndarray = torch.randperm(
        count, generator=torch.Generator().manual_seed(mix(seed, epoch, use))
    ).numpy()
    order.flags.writeable = False
    return order


def picks(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """Indices (size,) of the step's photos: a fresh permutation each epoch, the short rest of an
    epoch left out.
    """
    epoch, place = divmod(step, count // size)
    return _permutation(count, seed, epoch, "order")[place * size : (place + 1) * size]


def share(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """What process `rank` of `world` takes of a batch: every world-th, so that all shares together
    are the batch.
    """
    return indices[rank::world]


@dataclass(frozen=True)
class Shuffle:
    """The order of photos in shards: shards shuffled, then photos within windows of what follows;
    counts: photos of each shard.

    A window bounds how far apart in the files one batch reads: what a shuffle buffer does, but
    random access and no memory.
    """

    counts: tuple[int, ...]
    window: int = WINDOW

    def picks(self, size: int, step: int, seed: int) -> np.ndarray:
        """Indices (size,), counted through the shards in their own order; each photo at most once
        an epoch.
        """
        total = sum(self.counts)
        epoch, place = divmod(step, total // size)
        places = np.arange(place * size, (place + 1) * size)
        for window in np.unique(places // self.window).tolist():
            start, mine = window * self.window, places // self.window == window
            # one shard in one window: the order of the same photos in memory
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
