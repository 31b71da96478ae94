"""Counter-based noise: a seed gives the same array on every runtime, batch size and machine.

Between machines the last bit of a float32 may differ, because mathematics libraries round log and
cos differently.

numpy guarantees the raw stream of its Philox bit generator across versions but not its normal
distribution (NEP 19), so the normal is made here: Box-Muller in float64 over raw 64-bit draws.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import numpy as np

from .spec import Array, TensorSpec


def noise(spec: TensorSpec, seeds: Sequence[int], stream: str) -> Array:
    """Return standard normal noise (len(seeds), *spec.shape[1:]), from one Philox stream for each
    pair (seed, stream).

    seeds: integers in [0, 2**63); stream: what the noise is for, e.g. "start" or "step3".
    """
    shape = spec.sized(batch=len(seeds))[1:]
    count = int(np.prod(shape))
    word = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "little")
    out = np.empty((len(seeds), count), np.float32)
    for row, seed in zip(out, seeds, strict=True):
        if not 0 <= operator.index(seed) < 2**63:
            raise ValueError(f"a seed must be in [0, 2**63), got {seed}")
        # numpy would convert a tuple to float64 if one of its numbers exceeds 2**63
        key = np.array([operator.index(seed), word], np.uint64)
        row[:] = _normal(np.random.Philox(key=key), count)
    return out.reshape(len(seeds), *shape)


def _normal(bits: np.random.Philox, count: int) -> np.ndarray:
    pairs = (count + 1) // 2
    # in (0, 1), never 0: log stays finite
    uniform = ((bits.random_raw(2 * pairs) >> np.uint64(11)) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
