"""Test whether a generator gives its training photos back: near-copies, nearest neighbours and a
membership attack. It needs numpy only.

A near-copy has nearly the same difference hash as a training photo, and nearly its features or
nearly its look. Features alone are too strict: with noise of 3 levels of 255 on 32 px renders no
copy keeps a cosine of 0.98 (EfficientNet-Lite0), while hash and look find 97 %; features find
copies that have moved or changed colour. docs/statistics.md has the table. The attack: if training
photos lie closer to the samples than held-out photos do, the samples reveal who was trained on.
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

BITS = 4  # bits of 64 by which the difference hashes of two copies may differ
MARGIN = 2  # levels of 255 that the hash ignores as flat
BLIND = 0.5  # AUC of an attack that learns nothing
COSINE = 0.98  # least cosine of the features of two copies
# least correlation of two 16 x 16 versions, as for leaks between train and held-out photos
LOOK = 0.995
CHUNK = 1024  # rows of either side that are compared at a time


@dataclass(frozen=True, eq=False)
class Images:
    """Hold pixels (n, h, w, 3) uint8 and their features (n, d), row by row. Raises ValueError for
    others.
    """

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
        """Return the pixels as (n, h w 3)."""
        return self.pixels.reshape(len(self), -1)


@dataclass(frozen=True)
class Limits:
    """Hold the limits up to which images count as new; `faults` applies them."""

    near_copies: int = 0
    # least ratio of the features' distances; photos held out from one set lie at 0.87 to 1.2,
    # copies with noise at 0.5
    novelty: float = 0.7
    membership: float = 0.6  # largest AUC of the attack

    def __post_init__(self) -> None:
        if not (self.near_copies >= 0 and 0 <= self.novelty < 1 and 0.5 <= self.membership <= 1):
            raise ValueError(
                "limits must be near_copies >= 0, novelty in [0, 1), membership in [0.5, 1], got "
                f"{self}"
            )

    def faults(self, near_copies: int, novelty: float, membership: Interval) -> tuple[str, ...]:
        """Return a clause for each sign that photos are remembered; NaN is one.

        A low ratio counts only if training photos are closer than others beyond chance, because
        images that are all alike or blurred lie close to every photo. The attack counts if its
        whole interval is above the limit.
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
    """Hold what `images` generated images reveal of `train` photos, beside `held_out` photos that
    were never trained on.
    """

    # (generated, training photo) for each generated image that is a near-copy
    pairs: tuple[tuple[int, int], ...]
    # held-out photos that are near-copies of training photos: a good generator may meet as many by
    # chance
    held_out_alike: int
    features: Novelty
    pixels: Novelty  # also below 1 for blurred images, which lie in the middle of all photos
    # AUC of the attack, 0.5 if nothing is revealed; the larger of those by features and by pixels,
    # at 95 % for both
    membership: Interval
    images: int
    train: int
    held_out: int

    @property
    def near_copies(self) -> int:
        return len(self.pairs)

    def faults(self, limits: Limits) -> tuple[str, ...]:
        """Return a clause for each fault; none if nothing is remembered."""
        return limits.faults(self.near_copies, self.features.ratio, self.membership)

    def check(self, limits: Limits) -> None:
        """Raise GateFailed E-MEMORY with every fault."""
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
    """Return the report of generated images against photos of the same size.

    Raises EdgegenError on NaN, and ValueError for different sizes or if half of the held-out photos
    are training photos.
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
    """Return (generated, train) indices: for each image that is a near-copy, the training photo
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
    """Return the AUC of distinguishing training photos from held-out ones by the distance to the
    nearest generated image; rows are (n, d) each.
    """
    return auc(nearest(train, generated), nearest(held_out, generated), level)


def auc(
    near: Sequence[float] | Float64, far: Sequence[float] | Float64, level: float = 0.95
) -> Interval:
    """Return the chance that a value of `near` is below one of `far`, ties counting half, with an
    interval after Newcombe 2006, method 5.

    It is a score interval: it keeps a width at 0 and 1, where those from placements (DeLong) have
    none. Raises EdgegenError on NaN, ValueError for an empty side.
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
        """Return whether the value is too far from `at` to come from it."""
        variance = at * (1 - at) * (1 + half * (1 - at) / (2 - at) + half * at / (1 + at)) / (m * n)
        return abs(value - at) > z * variance**0.5

    return Interval(value, _edge(beyond, value, 0.0), _edge(beyond, value, 1.0))


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where `beyond` begins between two places, by halving."""
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
    return inside


def _unit(features: Floats) -> Array:
    x = features.astype(np.float32)
    out: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return out
