"""Train and held-out photos, decided by each photo's own pixels, and the near-copies that would make a verdict too good."""

from __future__ import annotations

import numpy as np

from ..errors import InputError, UsageError
from .data import Photos, digests

BITS = 4  # of 64 by which the difference hashes of two copies may differ (recompression, small resize)
ALIKE = 0.98  # correlation of copies; a difference hash alone takes every plain shirt for every other
_CHUNK = 512


def split(photos: Photos, held_out: float = 0.1) -> tuple[Photos, Photos]:
    """(train, held-out): a photo's side depends on its pixels and `held_out` alone, so others that come or go do not move it.

    Equal photos land on one side. held_out: expected fraction in (0, 1). Raises InputError when a side is empty.
    """
    if not 0 < held_out < 1:
        raise UsageError("E-CONFIG", f"held_out must be above 0 and below 1, got {held_out}")
    limit = int(held_out * 2**64)
    out = np.array([int.from_bytes(digest[:8], "big") < limit for digest in digests(photos.pixels)], bool)
    if out.all() or not out.any():
        raise InputError("E-DATA-TOO-FEW", f"{len(photos)} photos are too few to hold out {held_out:.0%} of them", hint="add photos")
    return _take(photos, ~out), _take(photos, out)


def near_copies(train: Photos, held_out: Photos) -> np.ndarray:
    """Indices (k, 2) of (held-out, train) pairs, one for each held-out photo that is nearly a training photo."""
    theirs, ours = _signs(train.pixels), _signs(held_out.pixels)
    found = []
    for start in range(0, len(ours), _CHUNK):
        differ = (theirs.shape[1] - ours[start : start + _CHUNK] @ theirs.T) / 2  # Hamming distance as a matrix product
        for row, column in zip(*np.nonzero(differ <= BITS), strict=True):
            if (not found or found[-1][0] != start + row) and _alike(held_out.pixels[start + row], train.pixels[column]):
                found.append((start + int(row), int(column)))
    return np.array(found, np.int64).reshape(-1, 2)


def refuse_leak(train: Photos, held_out: Photos) -> None:
    """InputError when held-out photos are near-copies of training photos: any distance measured on them is too good."""
    if count := len(near_copies(train, held_out)):
        raise InputError("E-DATA-LEAK", f"{count} of {len(held_out)} held-out photos are near-copies of training photos",
                         hint="remove one of each pair; near_copies() tells which")


def _take(photos: Photos, mask: np.ndarray) -> Photos:
    return Photos(photos.pixels[mask], photos.labels[mask], photos.classes)


def _signs(pixels: np.ndarray) -> np.ndarray:
    """dHash (n, 64) as -1 or 1: is each of 8 x 8 cells brighter than its right neighbour (hackerfactor.com, "Kind of Like That")."""
    grey = pixels.mean(axis=3)
    rows = np.array_split(np.arange(grey.shape[1]), 8)
    columns = np.array_split(np.arange(grey.shape[2]), 9)
    cells = np.stack([np.stack([grey[:, r[0] : r[-1] + 1, c[0] : c[-1] + 1].mean(axis=(1, 2)) for c in columns], 1) for r in rows], 1)
    return np.where(cells[:, :, :-1] > cells[:, :, 1:] + 1, np.float32(1), np.float32(-1)).reshape(len(pixels), 64)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    x, y = (image.astype(np.float64).ravel() - image.mean() for image in (a, b))
    return bool(x @ y >= ALIKE * np.sqrt((x @ x) * (y @ y)))
