"""Which photo comes when: a function of (seed, step) and of how many photos there are, so that any step can be asked for again.

No state is kept or stored: a resumed run or another number of processes sees the same photos at the same step.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch


def mix(seed: int, step: int, use: str) -> int:
    """A random generator's seed for one use at one step: a function of nothing else."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{use}".encode()).digest()[:8], "little") >> 1


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int, use: str) -> np.ndarray:
    order: np.ndarray = torch.randperm(count, generator=torch.Generator().manual_seed(mix(seed, epoch, use))).numpy()
    order.flags.writeable = False
    return order


def picks(count: int, size: int, step: int, seed: int) -> np.ndarray:
    """Indices (size,) of the step's photos: a fresh permutation each epoch, the short rest of an epoch left out."""
    epoch, place = divmod(step, count // size)
    return _permutation(count, seed, epoch, "order")[place * size : (place + 1) * size]


def share(indices: np.ndarray, rank: int, world: int) -> np.ndarray:
    """What process `rank` of `world` takes of a batch: every world-th, so that all shares together are the batch."""
    return indices[rank::world]
