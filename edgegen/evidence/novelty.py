"""Test whether generated images are new or copies of training images, by the distances to nearest
neighbours beside those of held-out images. It needs numpy only.

A generator that copies has a small Frechet distance: its figure means something only beside this
one (docs/methods/dkgm.md, D.2.4).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.files import JsonObject
from .distances import finite

Rows = NDArray[np.floating[Any] | np.uint8]  # (n, d): features, or pixels on one scale
# share of the median distance of held-out images, below which an image counts as a copy of its
# training image
COPY = 0.5
CHUNK = 1024  # rows of either side at a time, so that memory stays at CHUNK^2 distances


@dataclass(frozen=True)
class Novelty:
    """Hold how new images are.

    `ratio` is the median nearest distance generated -> train over that of held-out -> train, 1 for
    images as new as held-out ones. `copies` is the share of generated images closer to a training
    image than COPY times the held-out median.
    """

    ratio: float
    copies: float
    generated: float  # median distances, in units of the space
    held_out: float

    def to_json(self) -> JsonObject:
        return asdict(self)


def novelty(generated: Rows, held_out: Rows, train: Rows) -> Novelty:
    """Compare rows (n, d): pixels on one scale, or features of one network.

    Raises EdgegenError on NaN, and ValueError for different widths or if half of the held-out
    images are training images, because then there is nothing to compare with.
    """
    near, usual = nearest(generated, train), nearest(held_out, train)
    middle = float(np.median(usual))
    if not middle > 0:
        raise ValueError("half of the held-out images are training images: hold out others")
    median = float(np.median(near))
    return Novelty(median / middle, float((near < COPY * middle).mean()), median, middle)


def nearest(rows: Rows, train: Rows, chunk: int = CHUNK) -> np.ndarray:
    """Return the Euclidean distance (n,) of each of rows (n, d) to the nearest of train (m, d);
    memory is for chunk^2 distances.

    Raises ValueError for different widths or nothing to compare, EdgegenError on NaN.
    """
    if (
        rows.ndim != 2
        or train.ndim != 2
        or rows.shape[1] != train.shape[1]
        or not len(rows)
        or not len(train)
    ):
        raise ValueError(
            f"neighbours need rows of one width on both sides, got {rows.shape} and {train.shape}"
        )
    best = np.full(len(rows), np.inf)
    place = np.zeros(len(rows), np.int64)
    for start in range(0, len(train), chunk):
        part = finite(train[start : start + chunk].astype(np.float32))
        square = np.square(part).sum(1)
        for first in range(0, len(rows), chunk):
            x = finite(rows[first : first + chunk].astype(np.float32))
            far = np.square(x).sum(1)[:, None] + square - 2 * x @ part.T
            found = far.argmin(1)
            value = far[np.arange(len(x)), found]
            better = value < best[first : first + chunk]
            best[first : first + chunk][better] = value[better]
            place[first : first + chunk][better] = start + found[better]
    # computed exactly for the neighbour that was found, because the product form above cannot
    # distinguish a copy from a close image
    return np.concatenate(
        [
            np.linalg.norm(
                rows[k : k + chunk].astype(np.float64) - train[place[k : k + chunk]], axis=1
            )
            for k in range(0, len(rows), chunk)
        ]
    )
