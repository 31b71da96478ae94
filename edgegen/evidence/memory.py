"""Does a generator give its training photos back? Near-copies, nearest neighbours and a membership
attack. (numpy only)

A near-copy has nearly the same difference hash as a training photo, and nearly its features or
nearly its look. Features alone are too keen an eye: with noise of 3 levels of 255 on 32 px renders
no copy keeps a cosine of 0.98 (EfficientNet-Lite0), while hash and look find 97 %; features find
copies that have moved or changed colour. docs/statistics.md has the table. The attack: if training
photos lie nearer to the samples than held-out photos do, the samples tell who was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..core.files import JsonObject
from ..core.image_hash import differing_bits, looks, signs
from ..core.spec import Array
from ..core.verdict import Interval
from ..errors import GateFailed
from .distances import Float64, Floats, finite
from .novelty import Novelty, Rows, nearest, novelty

BITS = 4  # of 64 by which the difference hashes of two copies may differ
MARGIN = 2  # levels of 255: what the hash takes for flat
BLIND = 0.5  # AUC of an attack that tells nothing
COSINE = 0.98  # of features
# correlation of two 16 x 16 versions, as for leaks between train and held-out photos
LOOK = 0.995
CHUNK = 1024  # rows of either side at a time


@dataclass(frozen=True, eq=False)
class Images:
    """pixels (n, h, w, 3) uint8 and their features (n, d), row by row."""

    pixels: np.ndarray
    features: Floats

    def __post_init__(self) -> None:
        if (
            self.pixels.dtype != np.uint8
            or self.pixels.ndim != 4
            or self.features.ndim != 2
            or len(self.pixels) != len(self.features)
            or not len(self.pixels)
        ):
            raise ValueError(
                "images need uint8 (n, h, w, 3) and features (n, d), n >= 1, got "
                f"{self.pixels.dtype} "
                f"{self.pixels.shape} and {self.features.shape}"
            )
        finite(self.features)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def rows(self) -> NDArray[np.uint8]:
        """Pixels as (n, h w 3)."""
        return self.pixels.reshape(len(self), -1)


@dataclass(frozen=True)
class Limits:
    """What still counts as new: see faults."""

    near_copies: int = 0
    # of the features' ratio; photos held out from one set lie at 0.87 to 1.2, copies with noise at
    # 0.5
    novelty: float = 0.7
    membership: float = 0.6  # the attack's AUC

    def __post_init__(self) -> None:
        if not (self.near_copies >= 0 and 0 <= self.novelty < 1 and 0.5 <= self.membership <= 1):
            raise ValueError(
                "limits must be near_copies >= 0, novelty in [0, 1), membership in [0.5, 1], got "
                f"{self}"
            )

    def faults(self, near_copies: int, novelty: float, membership: Interval) -> tuple[str, ...]:
        """What says that photos are remembered, one clause each; NaN is a fault.

        A low ratio counts where training photos are nearer than others beyond chance: images that
        are all alike or blurred lie near to every photo. The attack counts when its whole interval
        is above the limit.
        """
        sentences = []
        if not near_copies <= self.near_copies:
            sentences.append(
                f"{near_copies} images are near-copies of training photos, allowed "
                f"{self.near_copies}"
            )
        if math.isnan(novelty) or (novelty < self.novelty and not membership.low <= BLIND):
            sentences.append(
                f"images are {novelty:.2f} x as far from training photos as held-out ones are, "
                f"limit {self.novelty:g}"
            )
        if not membership.finite or not membership.low <= self.membership:
            sentences.append(
                "training photos can be told from others by the images: AUC "
                f"{membership.value:.2f} "
                f"({membership.low:.2f} to {membership.high:.2f}), limit {self.membership:g}"
            )
        return tuple(sentences)


@dataclass(frozen=True)
class Memory:
    """What `images` generated ones tell of `train` photos, beside `held_out` photos that were never
    trained on.
    """

    # (generated, training photo) for each generated image that is a near-copy
    pairs: tuple[tuple[int, int], ...]
    # held-out photos that are near-copies of training photos: how many a good generator may meet by
    # chance
    held_out_alike: int
    features: Novelty
    pixels: Novelty  # also below 1 for blurred images, which lie in the middle of all photos
    # AUC of the attack, 0.5 when nothing is told; by features or pixels, what tells more, at 95 %
    # for both
    membership: Interval
    images: int
    train: int
    held_out: int

    @property
    def near_copies(self) -> int:
        return len(self.pairs)

    def faults(self, limits: Limits) -> tuple[str, ...]:
        """Clauses, none when nothing is remembered."""
        return limits.faults(self.near_copies, self.features.ratio, self.membership)

    def check(self, limits: Limits) -> None:
        """GateFailed E-MEMORY with every fault."""
        if faults := self.faults(limits):
            raise GateFailed(
                "E-MEMORY",
                "the generator remembers its photos: " + "; ".join(faults),
                details=self.to_json(),
                hint="train fewer steps or a smaller rank, or add photos",
            )

    def to_json(self) -> JsonObject:
        return {"near_copies": self.near_copies, **asdict(self)}


def memory(generated: Images, train: Images, held_out: Images) -> Memory:
    """The report of generated images against photos of one size. EdgegenError on NaN; ValueError
    for other shapes.

    ValueError too where half of the held-out photos are training photos.
    """
    if (
        generated.pixels.shape[1:] != train.pixels.shape[1:]
        or generated.pixels.shape[1:] != held_out.pixels.shape[1:]
    ):
        raise ValueError(
            f"images and photos differ in size: {generated.pixels.shape}, {train.pixels.shape}, "
            f"{held_out.pixels.shape}"
        )
    attacks = [
        attack(train.features, held_out.features, generated.features, 0.975),
        attack(train.rows, held_out.rows, generated.rows, 0.975),
    ]
    return Memory(
        near_copies(generated, train),
        len(near_copies(held_out, train)),
        novelty(generated.features, held_out.features, train.features),
        novelty(generated.rows, held_out.rows, train.rows),
        max(attacks, key=lambda interval: interval.value),
        len(generated),
        len(train),
        len(held_out),
    )


def near_copies(generated: Images, train: Images) -> tuple[tuple[int, int], ...]:
    """(generated, train) indices: for each image that is a near-copy, the training photo that is
    most like it.
    """
    ours, theirs = (signs(part.pixels, MARGIN) for part in (generated, train))
    our_looks, their_looks = looks(generated.pixels), looks(train.pixels)
    our_lines, their_lines = _unit(generated.features), _unit(train.features)
    copies: list[tuple[int, int]] = []
    for start in range(0, len(generated), CHUNK):
        part = slice(start, start + CHUNK)
        look, cosine = our_looks[part] @ their_looks.T, our_lines[part] @ their_lines.T
        close = (differing_bits(ours[part], theirs) <= BITS) & ((cosine >= COSINE) | (look >= LOOK))
        best = np.where(close, look, -np.inf).argmax(1)
        copies.extend((int(start + k), int(best[k])) for k in np.flatnonzero(close.any(1)))
    return tuple(copies)


def attack(train: Rows, held_out: Rows, generated: Rows, level: float = 0.95) -> Interval:
    """AUC of telling training photos from held-out ones by the distance to the nearest generated
    image; rows (n, d) each.
    """
    return auc(nearest(train, generated), nearest(held_out, generated), level)


def auc(
    near: Sequence[float] | Float64, far: Sequence[float] | Float64, level: float = 0.95
) -> Interval:
    """Chance that one of `near` is below one of `far`, ties half; interval after Newcombe 2006,
    method 5.

    A score interval: it keeps a width at 0 and 1, where those from placements (DeLong) have none.
    EdgegenError on NaN.
    """
    a, b = finite(np.asarray(near, np.float64)), np.sort(finite(np.asarray(far, np.float64)))
    m, n = len(a), len(b)
    if not m or not n:
        raise ValueError(f"an AUC needs values on both sides, got {m} and {n}")
    value = float(
        1 - (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")).mean() / (2 * n)
    )
    z, half = NormalDist().inv_cdf((1 + level) / 2), (m + n) / 2 - 1

    def beyond(at: float) -> bool:
        """Is the value too far from `at` to come from it?"""
        variance = at * (1 - at) * (1 + half * (1 - at) / (2 - at) + half * at / (1 + at)) / (m * n)
        return abs(value - at) > z * variance**0.5

    return Interval(value, _edge(beyond, value, 0.0), _edge(beyond, value, 1.0))


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `beyond` begins between two places, by halving."""
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
    return inside


def _unit(features: Floats) -> Array:
    x = features.astype(np.float32)
    out: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return out
