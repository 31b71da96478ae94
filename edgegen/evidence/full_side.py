"""Two pipelines' images of the same seeds, made side by side: pixels, and features where they are
wanted. (numpy only)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.images import to_uint8
from ..core.seeds import EVIDENCE
from ..core.side_by_side import over_workers, runs
from ..core.spec import Array
from ..errors import EdgegenError, GateFailed, UsageError
from .reference import Features, Reference

CHUNK = 64  # images that one worker makes at a time, between two calls of progress
KEPT_BYTES = 1 << 30  # of full-precision pixels; those beyond are made again when asked for

Images = Callable[[Sequence[int]], Array]  # seeds -> (n, c, h, w) in [-1, 1]: a Pipeline
Featured = tuple[Array, Array | None]  # of the first judge, and of the second where there is one


class FullSide:
    """The full-precision pipeline's images and features for seeds start, start + 1, ...: made on
    demand, shared by runtimes.

    workers: runs of CHUNK images that are made at once, here and by who compares with them; nothing
    but the time depends on it. reference: None where there is none; features then stay as they are,
    along no directions. classes: names of the labels or prompts that go round with the seeds, all
    of which are of one use. second: a network of another kind, which judges as well and needs no
    reference.
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
        """Raises ReferenceMismatch when the reference was made with another feature network,
        UsageError where both judges are one network.
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
        self._projected: list[Array] = []
        self._second: list[Array] = []

    def from_seed(self, start: int) -> FullSide:
        """The same pipeline and judges for other seeds."""
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
        """Images whose pixels are kept."""
        return len(self._pixels)

    @property
    def featured(self) -> int:
        """Images whose features are known."""
        return len(self._projected)

    def seeds(self, first: int, last: int) -> range:
        """Seeds of images first .. last - 1."""
        return range(self.start + first, self.start + last)

    def labels(self, count: int) -> np.ndarray:
        """Of the first `count` images; all 0 for a generator without labels."""
        return np.arange(self.start, self.start + count) % max(len(self.classes), 1)

    def pictured(self, part: range) -> np.ndarray:
        """Pixels of these images, kept or made; several threads may ask."""
        kept = self._pixels[part.start : part.stop]
        fresh = range(part.start + len(kept), part.stop)
        if not fresh:
            return np.stack(kept)
        made = to_uint8(self.images(self.seeds(fresh.start, fresh.stop)))
        return np.stack([*kept, *made]) if kept else made

    def featured_by_all(self, pixels: np.ndarray) -> Featured:
        """Features (n, dim) of uint8 images (n, h, w, 3), by each judge; several threads may
        ask.
        """
        return self.features(pixels), None if self.second is None else self.second(pixels)

    def keep(self, part: range, pixels: np.ndarray, features: Featured | None) -> None:
        """What was made of these images, as far as it is new and there is room."""
        room = self.kept_bytes // pixels[0].nbytes
        if part.start <= len(self) < part.stop:
            self._pixels.extend(pixels[len(self) - part.start :][: max(room - len(self), 0)])
        if features is not None and part.start <= self.featured < part.stop:
            first, second = features
            new = self.featured - part.start
            self._projected.extend(self.along_reference(first[new:]))
            if second is not None:
                self._second.extend(second[new:])

    def pixels(self, first: int, last: int) -> np.ndarray:
        """Images first .. last - 1 as (n, h, w, 3) uint8, made when they are not there yet."""
        parts = runs(first, last, CHUNK)
        made = list(over_workers(self.pictured, parts, self.workers))
        for part, pixels in zip(parts, made, strict=True):
            self.keep(part, pixels, None)
        return np.concatenate(made)

    def projected(self, count: int) -> Array:
        """Projected features of the first `count` images, (count, k)."""

        def made(part: range) -> tuple[range, np.ndarray, Featured]:
            pixels = self.pictured(part)
            return part, pixels, self.featured_by_all(pixels)

        for part, pixels, features in over_workers(
            made, runs(self.featured, count, CHUNK), self.workers
        ):
            self.keep(part, pixels, features)
        return np.stack(self._projected[:count])

    def seen_by_second(self, count: int) -> Array:
        """The second judge's features of the first `count` images, (count, dim)."""
        self.projected(count)
        return np.stack(self._second[:count])

    def along_reference(self, features: Array) -> Array:
        """The first judge's features (n, dim) -> (n, k); as they are without a reference."""
        return features if self.reference is None else self.reference.project(features)

    def project(self, images: np.ndarray) -> Array:
        """uint8 images (n, h, w, 3) -> (n, k)."""
        return self.along_reference(self.features(images))


@dataclass(frozen=True)
class Pictured:
    """Pairs of images that a worker has made: pixels of both sides (n, h, w, 3), and the other
    side's features (n, dim) where they were asked for, by each judge.
    """

    part: range
    full: np.ndarray
    other: np.ndarray
    features: Array | None
    second: Array | None = None


def paired(
    full: FullSide, other: Images, first: int, last: int, with_features: bool = True
) -> Iterator[Pictured]:
    """Pairs first .. last - 1, run by run."""
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
    """A pipeline's images as (n, h, w, 3) uint8; GateFailed when one is not finite."""
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
