"""Train and held-out photos, decided by each photo's own pixels, and the near-copies that would make a verdict too good."""

from __future__ import annotations

import numpy as np

from ..core.alike import differing_bits, looks, signs
from ..errors import InputError, UsageError
from .data import Photos, digests

BITS = 8  # of 64 by which the difference hashes of two copies may differ (recompression, small resize)
ALIKE = 0.995  # correlation; of 820 renders at 32 px it finds 99 % again at JPEG quality 75, 98 % at 30, 99 % resized to 2/3;
# 2.1 % of the test images of Fashion-MNIST are that near to a training image, plain trousers mostly
_CHUNK = 256


def split(photos: Photos, held_out: float = 0.1) -> tuple[Photos, Photos]:
    """(train, held-out): a photo's side depends on its pixels and `held_out` alone, so others that come or go do not move it.

    Equal photos land on one side. held_out: expected fraction in (0, 1). Raises InputError when a side is empty.
    """
    if not 0 < held_out < 1:
        raise UsageError("E-CONFIG", f"held_out must be above 0 and below 1, got {held_out}")
    limit = int(held_out * 2**64)
    out = np.array([int.from_bytes(digest[:8], "big") < limit for digest in digests(photos.pixels)], bool)
    if out.all() or not out.any():
        raise InputError("E-DATA-TOO-FEW", f"{len(photos)} photos are too few to hold out {held_out:.0%}", hint="add photos")
    return _take(photos, ~out), _take(photos, out)


def near_copies(train: Photos, held_out: Photos) -> np.ndarray:
    """Indices (k, 2) of (held-out, train) pairs, one for each held-out photo that is nearly a training photo."""
    theirs, ours = signs(train.pixels), signs(held_out.pixels)
    their_looks, our_looks = looks(train.pixels), looks(held_out.pixels)
    found = []
    for start in range(0, len(ours), _CHUNK):
        part = slice(start, start + _CHUNK)
        close = differing_bits(ours[part], theirs) <= BITS
        close &= our_looks[part] @ their_looks.T >= ALIKE
        rows = np.flatnonzero(close.any(axis=1))
        found.append(np.stack([start + rows, close[rows].argmax(axis=1)], 1))
    return np.concatenate(found)


def refuse_leak(train: Photos, held_out: Photos) -> None:
    """InputError when held-out photos are near-copies of training photos: any distance measured on them is too good."""
    if count := len(near_copies(train, held_out)):
        raise InputError("E-DATA-LEAK", f"{count} of {len(held_out)} held-out photos are near-copies of training photos",
                         hint="remove one of each pair; near_copies() tells which")


def _take(photos: Photos, mask: np.ndarray) -> Photos:
    return Photos(photos.pixels[mask], photos.labels[mask], photos.classes)
