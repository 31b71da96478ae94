"""The agreement between the damage predicted for layers and the damage that really goes when each
layer is put back to full precision. (numpy only)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .lattice import Floats

PEAK = 2.0  # range of images in [-1, 1]


def by_region(apart: Floats, masks: np.ndarray) -> Floats:
    """Sum the squares of differences (n, c, h, w) inside each of masks (r, h, w) -> (n, r)."""
    summed: Floats = np.einsum(
        "nchw,rhw->nr", np.square(apart, dtype=np.float64), masks.astype(np.float64)
    )
    return summed


def decibels(square: float, numbers: float) -> float | None:
    """Return the PSNR in dB of a sum of squared differences over `numbers` values; None for 0."""
    return 10 * math.log10(PEAK**2 * numbers / square) if square > 0 else None


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Return Spearman's rank correlation, in which equal values share their mean rank.

    None if all values of a side are equal, or there are fewer than three.
    """
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if len(a) >= 3 and scale else None


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


@dataclass(frozen=True)
class Check:
    """Squared errors (layers, seeds, regions): `predicted` is a layer's part, and `removed` is what
    goes when that layer alone is put back to full precision.
    """

    predicted: Floats
    removed: Floats

    def to_json(self) -> dict[str, Any]:
        """Return the rank correlations between predicted and removed errors of the layers.

        "of the check with itself" is the correlation of removed errors between even and odd seeds;
        no prediction can agree much better than that.
        """
        predicted, removed = self.predicted.sum((1, 2)), self.removed.sum((1, 2))
        regions = [
            rank_correlation(self.predicted[..., r].sum(1), self.removed[..., r].sum(1))
            for r in range(self.removed.shape[2])
        ]
        known = [one for one in regions if one is not None]
        halves = [self.removed[:, k::2].sum((1, 2)) for k in (0, 1)]
        return {
            "rank correlation": rank_correlation(predicted, removed),
            "rank correlation, mean of regions": float(np.mean(known)) if known else None,
            "rank correlation of the check with itself": rank_correlation(*halves)
            if self.removed.shape[1] > 1
            else None,
            "seeds whose first layer removes more than the median layer": self.first_wins(),
            "the same by chance": (len(removed) // 2) / len(removed) if len(removed) >= 3 else None,
        }

    def first_wins(self) -> float | None:
        """Return the share of seeds in which the layer with the largest predicted error removes
        more than the median layer; None for fewer than 3 layers.
        """
        if len(self.removed) < 3:
            return None
        predicted, removed = self.predicted.sum(2), self.removed.sum(2)
        first = removed[predicted.argmax(0), np.arange(removed.shape[1])]
        return float((first > np.median(removed, 0)).mean())
