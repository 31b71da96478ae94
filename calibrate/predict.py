"""Predict the damage of many layers from that of a few: the error that a layer's rounding makes in
its own graph's answers orders layers as whole trajectories do, and takes a tenth of the time to
measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

CHECKED = 10  # layers of a graph whose damage is measured along whole trajectories
# Rank correlation of errors and measured damages below which errors say too little.
LEAST_RANK = 0.6
TINY = 1e-30  # error of a layer whose rounding changes nothing


def to_check(errors: Sequence[float], count: int = CHECKED) -> list[int]:
    """Return the places of the layers to measure: evenly from the smallest error to the largest,
    both included.
    """
    order = sorted(range(len(errors)), key=lambda place: (errors[place], place))
    if len(order) <= count:
        return sorted(order)
    ranks = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return sorted(order[rank] for rank in ranks)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's correlation of two figures of the same layers: 1 for fewer than three, 0 if
    one of them is constant.
    """
    if len(one) < 3:
        return 1.0
    ranks = [_ranks(np.asarray(values, np.float64)) for values in (one, other)]
    if any(np.ptp(r) == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks; equal values share the middle of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def predicted(errors: Sequence[float], measured: Mapping[int, float]) -> list[float]:
    """Return the damages of all layers: measured ones (place -> damage) as they are, the others
    from a line through these in logarithms that never falls.
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
