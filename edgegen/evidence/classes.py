"""Each class by itself: a mean over all classes hides one that INT8 has spoilt. (numpy only,
float64)
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

NAMES = "class_names"  # of a source's data
LONGEST = 64  # characters of a name
MOST = 32  # groups; a generator with more labels has several in each
FEWEST = 10  # pairs of a group that an interval is made of


@dataclass(frozen=True)
class Group:
    """One label, or several in a row."""

    first: int
    last: int
    name: str

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Which of these labels are the group's, (n,) bool."""
        found: np.ndarray = (labels >= self.first) & (labels <= self.last)
        return found


def class_names(source: Mapping[str, Any], latent: Latent, first_seed: int) -> tuple[str, ...]:
    """Of the labels or prompts that go round with seeds of that one's use. Labels have names where
    a manifest's source has public data and says them, else numbers.
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
    """All labels, by the names of those that are not several in one group, in MOST groups at most;
    none for a generator without labels or with one. pairs: that there will be, labels going round;
    of few, so many labels are in one group that each has FEWEST.
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
    """What is said of one group: its error and its part in the change of the distance."""

    group: Group
    pairs: int
    error: AtMost  # mean squared error, in units of the full range
    # of the distance, were this group alone in INT8; None where it is not counted
    change: Verdict | None

    @property
    def psnr_db(self) -> float:
        value = self.error.figure.value
        return -10 * math.log10(value) if value > 0 else math.inf

    @property
    def state(self) -> State:
        return together([self.error.state, *([self.change.state] if self.change else [])])

    def to_json(self) -> dict[str, Any]:
        """A PSNR of null says that no pixel differs."""
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
    """What each group has to keep to, all groups together at `level`."""

    error: float  # mean squared, at most
    change: float  # of the distance, either way
    level: float
    pairs: int | None = None  # that there will be at most


@dataclass(frozen=True)
class FeaturePairs:
    """Features (n, k) of both sides, the reference's moments, and what is known of the full one."""

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
    """Of each group; levels are corrected for the number of groups (Bonferroni), so a group that is
    named has failed by itself.

    names: of all labels. labels, errors and features are of the same n pairs; features: None where
    the distance is not counted.
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
    """Of the mean of squared errors; of few, what any images can have."""
    if len(errors) < FEWEST:
        return Interval(float(errors.mean()) if len(errors) else 0.0, 0.0, 1.0)
    mean = float(errors.mean())
    return skewed_interval(mean, errors - mean, level)


def worst(found: Sequence[ClassFound]) -> ClassFound | None:
    """The one that is farthest from passing: a failing one, else that of the least PSNR."""
    order = ("outside", "undecided", "within")
    return min(found, key=lambda one: (order.index(one.state), one.psnr_db), default=None)


def decibel(error: float) -> float | None:
    """A mean squared error as PSNR; None for none, and for what is no number."""
    return -10 * math.log10(error) if 0 < error < math.inf else None
