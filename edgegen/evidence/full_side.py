"""Make two pipelines' images of the same seeds side by side: pixels, and features if they are
wanted. It needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.images import to_uint8
from ..core.seeds import EVIDENCE
from ..core.side_by_side import over_workers, runs
from ..core.spec import Array
from ..errors import EdgegenError, GateFailed, InputError, UsageError
from .reference import Features, Reference

CHUNK = 64  # images that one worker makes between two calls of progress
# bytes of full-precision pixels that are kept; others are made again when they are needed
KEPT_BYTES = 1 << 30

Images = Callable[[Sequence[int]], Array]  # seeds -> (n, c, h, w) in [-1, 1], such as a Pipeline
# features of the first judge, and of the second if there is one
Featured = tuple[Array, Array | None]


class FullSide:
    """Make the full-precision pipeline's images and features for seeds start, start + 1, ... on
    demand; runtimes share them.

    `workers` is the number of runs of CHUNK images that are made at once, here and by a comparison;
    only the time depends on it. Without a `reference`, features are not projected. `classes` names
    the labels or prompts that seeds of one use take in turn. `second` is a network of another kind
    that judges too and needs no reference.
    """

    def __init__(
        self,
        images: Images,
        features: Features,
        reference: Reference | None,
        start: int = EVIDENCE.first,
        workers: int = 1,
        classes: Sequence[str] = (),
        second: Features | None = None,
    ) -> None:
        """Raise ReferenceMismatch if the reference was made with another feature network,
        UsageError if both judges are one network.
        """
        if reference is not None:
            reference.check(features)
        if second is not None and second.sha256 == features.sha256:
            raise UsageError(
                "E-FEATURES",
                f"the second judge is the first one, {features.name}: they would always agree",
                hint="name a network of another kind",
            )
        self.images, self.features, self.reference, self.start = images, features, reference, start
        self.workers, self.classes, self.second = workers, classes, second
        self.kept_bytes = KEPT_BYTES
        self._pixels: list[np.ndarray] = []
        self._first: np.ndarray | None = None
        self._varies = False
        self._projected: list[Array] = []
        self._second: list[Array] = []

    def from_seed(self, start: int) -> FullSide:
        """Return the same pipeline and judges for other seeds."""
        other = FullSide(
            self.images,
            self.features,
            self.reference,
            start,
            self.workers,
            self.classes,
            self.second,
        )
        other.kept_bytes = self.kept_bytes
        return other

    def __len__(self) -> int:
        """Return the number of images whose pixels are kept."""
        return len(self._pixels)

    @property
    def featured(self) -> int:
        """Return the number of images whose features are known."""
        return len(self._projected)

    def seeds(self, first: int, last: int) -> range:
        """Return the seeds of images first .. last - 1."""
        return range(self.start + first, self.start + last)

    def labels(self, count: int) -> np.ndarray:
        """Return the labels of the first `count` images; all 0 for a generator without labels."""
        return np.arange(self.start, self.start + count) % max(len(self.classes), 1)

    def pictured(self, part: range) -> np.ndarray:
        """Return the pixels of these images, kept or made anew; safe to call from several
        threads.
        """
        kept = self._pixels[part.start : part.stop]
        fresh = range(part.start + len(kept), part.stop)
        if not fresh:
            return np.stack(kept)
        made = to_uint8(self.images(self.seeds(fresh.start, fresh.stop)))
        return np.stack([*kept, *made]) if kept else made

    def featured_by_all(self, pixels: np.ndarray) -> Featured:
        """Return the features (n, dim) of uint8 images (n, h, w, 3) by each judge; safe to call
        from several threads.
        """
        return self.features(pixels), None if self.second is None else self.second(pixels)

    def keep(self, part: range, pixels: np.ndarray, features: Featured | None) -> None:
        """Keep what was made of these images, as far as it is new and there is room."""
        if self._first is None:
            self._first = pixels[0].copy()
        self._varies = self._varies or bool((pixels != self._first).any())
        room = self.kept_bytes // pixels[0].nbytes
        if part.start <= len(self) < part.stop:
            self._pixels.extend(pixels[len(self) - part.start :][: max(room - len(self), 0)])
        if features is not None and part.start <= self.featured < part.stop:
            first, second = features
            new = self.featured - part.start
            self._projected.extend(self.along_reference(first[new:]))
            if second is not None:
                self._second.extend(second[new:])

    def check_variety(self) -> None:
        """Raise InputError if all images made so far are the same one: whatever is measured
        relative to two seeds then divides by zero.
        """
        if self.featured > 1 and not self._varies:
            raise InputError(
                "E-ONE-IMAGE",
                f"full precision makes one and the same image from {self.featured} seeds, so "
                "nothing can be proven of its INT8",
                hint="look at the model's images; train it for longer, or check its file",
            )

    def pixels(self, first: int, last: int) -> np.ndarray:
        """Return images first .. last - 1 as (n, h, w, 3) uint8, making those that are missing."""
        parts = runs(first, last, CHUNK)
        made = list(over_workers(self.pictured, parts, self.workers))
        for part, pixels in zip(parts, made, strict=True):
            self.keep(part, pixels, None)
        return np.concatenate(made)

    def projected(self, count: int) -> Array:
        """Return the projected features of the first `count` images, (count, k)."""

        def made(part: range) -> tuple[range, np.ndarray, Featured]:
            pixels = self.pictured(part)
            return part, pixels, self.featured_by_all(pixels)

        for part, pixels, features in over_workers(
            made, runs(self.featured, count, CHUNK), self.workers
        ):
            self.keep(part, pixels, features)
        return np.stack(self._projected[:count])

    def seen_by_second(self, count: int) -> Array:
        """Return the second judge's features of the first `count` images, (count, dim)."""
        self.projected(count)
        return np.stack(self._second[:count])

    def along_reference(self, features: Array) -> Array:
        """Project the first judge's features (n, dim) to (n, k); unchanged without a reference."""
        return features if self.reference is None else self.reference.project(features)

    def project(self, images: np.ndarray) -> Array:
        """Return the projected features (n, k) of uint8 images (n, h, w, 3)."""
        return self.along_reference(self.features(images))


@dataclass(frozen=True)
class Pictured:
    """Hold pairs of images that a worker has made: pixels of both sides (n, h, w, 3), and the other
    side's features (n, dim) by each judge if they were asked for.
    """

    part: range
    full: np.ndarray
    other: np.ndarray
    features: Array | None
    second: Array | None = None


def paired(
    full: FullSide, other: Images, first: int, last: int, with_features: bool = True
) -> Iterator[Pictured]:
    """Yield pairs first .. last - 1, run by run. Raises EdgegenError if their shapes differ."""
    featured = full.featured

    def made(part: range) -> tuple[Pictured, Featured | None]:
        mine = full.pictured(part)
        theirs = pixels_of(other, full.seeds(part.start, part.stop))
        if mine.shape != theirs.shape:
            raise EdgegenError(
                "E-SHAPE",
                f"the pipelines give images of shape {mine.shape[1:]} and {theirs.shape[1:]}",
            )
        own = full.featured_by_all(mine) if with_features and part.stop > featured else None
        its = full.featured_by_all(theirs) if with_features else (None, None)
        return Pictured(part, mine, theirs, *its), own

    for pairs, own in over_workers(made, runs(first, last, CHUNK), full.workers):
        full.keep(pairs.part, pairs.full, own)
        yield pairs


def pixels_of(images: Images, seeds: range) -> np.ndarray:
    """Return a pipeline's images as (n, h, w, 3) uint8. Raises GateFailed if one is not finite."""
    try:
        return to_uint8(images(seeds))
    except EdgegenError as error:
        if error.code != "E-NONFINITE":
            raise
        raise GateFailed(
            "E-NONFINITE",
            f"images of seeds {seeds[0]} to {seeds[-1]} hold NaN or infinite values",
            hint="keep more layers in floating point",
        ) from error
