"""Judge each class by itself, because a mean over all classes hides one that INT8 has spoilt. It
needs numpy only and computes in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.latent import Latent
from ..core.verdict import AtMost, Interval, State, Verdict, together
from .distances import Float64, Floats, Moments
from .intervals import Estimate, distance_change, estimate
from .limits import skewed_interval

NAMES = "class_names"  # key of a manifest's source data
LONGEST = 64  # characters of a name
MOST = 32  # most groups; a generator with more labels has several in each
FEWEST = 10  # least pairs of a group that an interval is computed from


@dataclass(frozen=True)
class Group:
    """Hold one label, or several consecutive ones."""

    first: int
    last: int
    name: str

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return which of these labels belong to the group, (n,) bool."""
        found: np.ndarray = (labels >= self.first) & (labels <= self.last)
        return found


def class_names(source: Mapping[str, Any], latent: Latent, first_seed: int) -> tuple[str, ...]:
    """Return the names of the labels or prompts that seeds of that use take in turn.

    Labels have the names that a manifest's source gives for public data, else numbers.
    """
    own = latent.names(first_seed)
    if latent.prompts is not None:
        return own
    data = source.get("data")
    names = data.get(NAMES) if isinstance(data, Mapping) else None
    if (
        isinstance(names, list)
        and len(names) == len(own)
        and all(isinstance(name, str) and 0 < len(name) <= LONGEST for name in names)
    ):
        return tuple(names)
    return own


def groups(names: Sequence[str], pairs: int | None = None) -> list[Group]:
    """Divide all labels into at most MOST groups; none for a generator with fewer than
    two labels.

    `pairs` is the number of pairs that there will be, with labels in turn; if they are few, so many
    labels share a group that each group has FEWEST.
    """
    if len(names) < 2:
        return []
    number = min(len(names), MOST)
    if pairs is not None:
        of_each = pairs // len(names)
        enough = (n for n in range(number, 1, -1) if len(names) // n * of_each >= FEWEST)
        number = next(enough, 1)
    edges = np.linspace(0, len(names), number + 1).round().astype(int).tolist()
    return [
        Group(a, b - 1, names[a] if b == a + 1 else f"{names[a]} to {names[b - 1]}")
        for a, b in pairwise(edges)
    ]


@dataclass(frozen=True)
class ClassFound:
    """Hold the error of one group and its part in the change of the distance."""

    group: Group
    pairs: int
    error: AtMost  # mean squared error, in units of the full range
    # change of the distance if only this group were in INT8; None if the distance is not counted
    change: Verdict | None

    @property
    def psnr_db(self) -> float:
        value = self.error.figure.value
        return -10 * math.log10(value) if value > 0 else math.inf

    @property
    def state(self) -> State:
        return together([self.error.state, *([self.change.state] if self.change else [])])

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's form, in which a PSNR of null says that no pixel differs."""
        change = self.change.change if self.change else None
        return {
            "class": self.group.name,
            "pairs": self.pairs,
            "state": self.state,
            "psnr_db": self.psnr_db if math.isfinite(self.psnr_db) else None,
            "psnr_low_db": decibel(self.error.figure.high),
            "change": change and {"value": change.value, "low": change.low, "high": change.high},
        }


@dataclass(frozen=True)
class Demands:
    """Hold the limits of each group; all groups together hold at `level`."""

    error: float  # largest mean squared error
    change: float  # largest relative change of the distance, up or down
    level: float
    pairs: int | None = None  # most pairs that there will be


@dataclass(frozen=True)
class FeaturePairs:
    """Hold the features (n, k) of both sides, the reference's moments, and the estimate of the full
    side.
    """

    reference: Moments
    full: Floats
    other: Floats
    estimate: Estimate


def judged(
    names: Sequence[str],
    labels: np.ndarray,
    errors: Float64,
    features: FeaturePairs | None,
    demands: Demands,
) -> list[ClassFound]:
    """Judge each group; levels are corrected for the number of groups (Bonferroni), so a group that
    is named has failed by itself.

    `names` are those of all labels; labels, errors and features belong to the same n pairs.
    `features` is None if the distance is not counted.
    """
    every = groups(names, demands.pairs)
    return [
        _group(group, labels, errors, features, _shared(demands, len(every))) for group in every
    ]


def _shared(demands: Demands, number: int) -> Demands:
    return replace(demands, level=1 - (1 - demands.level) / number)


def _group(
    group: Group,
    labels: np.ndarray,
    errors: Float64,
    features: FeaturePairs | None,
    demands: Demands,
) -> ClassFound:
    own = group.of(labels)
    pairs = int(own.sum())
    change = None
    if features is not None:
        alone = estimate(features.reference, np.where(own[:, None], features.other, features.full))
        interval = distance_change(features.estimate, alone, demands.level)
        change = Verdict(interval, demands.change, pairs)
    error = AtMost(error_interval(errors[own], demands.level), demands.error)
    return ClassFound(group, pairs, error, change)


def error_interval(errors: Float64, level: float) -> Interval:
    """Return the interval of the mean of squared errors; for fewer than FEWEST, the range [0, 1]
    that any images lie in.
    """
    if len(errors) < FEWEST:
        return Interval(float(errors.mean()) if len(errors) else 0.0, 0.0, 1.0)
    mean = float(errors.mean())
    return skewed_interval(mean, errors - mean, level)


def worst(found: Sequence[ClassFound]) -> ClassFound | None:
    """Return the group that is farthest from passing: a failing one, else the one with the least
    PSNR.
    """
    order = ("outside", "undecided", "within")
    return min(found, key=lambda one: (order.index(one.state), one.psnr_db), default=None)


def decibel(error: float) -> float | None:
    """Return a mean squared error as PSNR in dB; None if it is 0, infinite or NaN."""
    return -10 * math.log10(error) if 0 < error < math.inf else None
