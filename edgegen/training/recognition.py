"""Recognition of generated images by a classifier, which is trained on features of the training
photos and tested on generated images and held-out photos.

A distance between sets says nothing about single images: colours and outlines can be near although
no image shows a chair. What a classifier of real photos recognises is really there. (This is the
classification accuracy score of Ravuri & Vinyals 2019 in reverse: trained on real photos, tested on
generated images.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..core.files import JsonObject
from ..core.spec import Array
from ..core.verdict import Interval

# Penalty on squared weights, for features of unit variance divided by the root of their number. The
# accuracy on held-out furniture is the same within 2 % from 3e-6 to 3e-4.
PENALTY = 1e-4
ROUNDS = 100  # most iterations of L-BFGS
RESAMPLES = 1_000  # of the bootstrap
FEWEST = 5  # held-out photos that a class needs to count


@dataclass(frozen=True)
class Recognition:
    """Mean accuracies over the `classes` classes with enough held-out photos.

    chance: accuracy of a random guess among all learned classes; share: (generated - chance) /
    (held_out - chance) with a 95 % bootstrap interval over images, None if held-out photos are not
    recognised better than by chance.
    """

    generated: float
    held_out: float
    chance: float
    share: Interval | None
    classes: int

    def to_json(self) -> JsonObject:
        """Return the JSON form in looks.json and `edgegen finetune --json`."""
        return {**vars(self), "share": None if self.share is None else vars(self.share)}


class Recogniser:
    """A logistic regression on features (n, d) of photos with labels (n,) in [0, classes).

    Each class has the same weight. ValueError for fewer than two classes with photos.
    """

    def __init__(self, features: Array, labels: np.ndarray, classes: int) -> None:
        counts = np.bincount(labels, minlength=classes)
        if (counts > 0).sum() < 2:
            raise ValueError("a classifier needs photos of two classes at least")
        self.known = np.flatnonzero(counts)
        self._mean, self._spread = features.mean(0), features.std(0) + 1e-6
        x, y = self._scaled(features), torch.from_numpy(labels.astype(np.int64))
        weight = torch.tensor([1 / n if n else 0.0 for n in counts.tolist()])
        with torch.random.fork_rng(devices=[]):
            self._layer = nn.Linear(x.shape[1], classes)
        nn.init.zeros_(self._layer.weight)
        nn.init.zeros_(self._layer.bias)
        optimizer = torch.optim.LBFGS(
            self._layer.parameters(), max_iter=ROUNDS, line_search_fn="strong_wolfe"
        )

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            wrong = nn.functional.cross_entropy(self._layer(x), y, weight)
            total = wrong + PENALTY / 2 * self._layer.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]

    def _scaled(self, features: Array) -> torch.Tensor:
        scaled = (features - self._mean) / self._spread / features.shape[1] ** 0.5
        return torch.from_numpy(scaled.astype(np.float32))

    def named(self, features: Array) -> np.ndarray:
        """Return the predicted class of each row, (n,)."""
        with torch.no_grad():
            found: np.ndarray = self._layer(self._scaled(features)).argmax(1).numpy()
        return found

    def recognition(
        self, generated: tuple[Array, np.ndarray], held_out: tuple[Array, np.ndarray]
    ) -> Recognition | None:
        """Measure the recognition of generated images and held-out photos.

        Both are (features, labels); labels below 0 are of no learned class. None if fewer than two
        classes have generated images and FEWEST held-out photos.
        """
        counted = [int(k) for k in self.known if (held_out[1] == k).sum() >= FEWEST]
        counted = [k for k in counted if (generated[1] == k).any()]
        if len(counted) < 2:
            return None
        ours, theirs = (
            _by_class(self.named(features), labels, counted)
            for features, labels in (generated, held_out)
        )
        chance = 1 / len(self.known)
        found, real = _mean(ours), _mean(theirs)
        return Recognition(found, real, chance, _share(ours, theirs, chance), len(counted))


def _by_class(named: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> list[np.ndarray]:
    """Return for each class whether its rows are named correctly, as 1 or 0."""
    return [(named[labels == k] == k).astype(float) for k in classes]


def _mean(right: Sequence[np.ndarray]) -> float:
    return float(np.mean([part.mean() for part in right]))


def _share(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], chance: float
) -> Interval | None:
    random = np.random.default_rng(0)

    def drawn(side: Sequence[np.ndarray]) -> np.ndarray:
        means = [random.choice(part, (RESAMPLES, len(part))).mean(1) for part in side]
        return np.asarray(np.mean(means, 0) - chance)

    above = drawn(theirs)
    real = _mean(theirs) - chance
    if real <= 0 or np.quantile(above, 0.025) <= 0:
        return None
    low, high = np.quantile(drawn(ours) / above, [0.025, 0.975])
    return Interval((_mean(ours) - chance) / real, float(low), float(high))


def numbered(names: Sequence[str], labels: np.ndarray, into: Sequence[str]) -> np.ndarray:
    """Translate labels into `names` to labels into `into`, with -1 for a class missing there."""
    places = [into.index(name) if name in into else -1 for name in names] or [0]
    return np.asarray(places)[labels]
