"""The damage of many layers from that of a few: what a layer's rounding does to its own graph's
answers orders layers as whole trajectories do, and takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

CHECKED = 10  # layers of a graph whose damage is measured along whole trajectories
# Rank correlation of errors and measured damages, below which errors say too little.
LEAST_RANK = 0.6
TINY = 1e-30  # error of a layer whose rounding changes nothing


def to_check(errors: Sequence[float], count: int = CHECKED) -> list[int]:
    """Places of the layers to measure: evenly from the smallest error to the largest, both in."""
    order = sorted(range(len(errors)), key=lambda place: (errors[place], place))
    if len(order) <= count:
        return sorted(order)
    ranks = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return sorted(order[rank] for rank in ranks)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of two figures of the same layers, 1 for fewer than three; 0 where one of them
    does not change.
    """
    if len(one) < 3:
        return 1.0
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (one, other)]
    if any(np.ptp(r) == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the middle of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def predicted(errors: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """Damages of all layers: those that were measured (place -> damage) as they are, the others
    along the line through these in logarithms, which never falls.
    """
    places = sorted(measured)
    x, y = (
        np.log(np.maximum(values, TINY))
        for values in ([errors[p] for p in places], [measured[p] for p in places])
    )
    spread = float(np.square(x - x.mean()).sum())
    slope = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread else 0.0
    middle = float(y.mean()) - slope * float(x.mean())
    line = np.exp(middle + slope * np.log(np.maximum(np.asarray(errors), TINY)))
    return [float(measured.get(place, line[place])) for place in range(len(errors))]
