"""Are two pipelines' images equally good on the same seeds? Looked at in growing numbers until
decided. (numpy only)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..core.images import to_uint8
from ..core.seeds import EVIDENCE
from ..core.side_by_side import over_workers, runs
from ..core.spec import Array
from ..core.verdict import Interval, Verdict
from ..errors import EdgegenError, GateFailed, UsageError
from .distances import Moments, PairedPsnr, frechet, squared_error
from .intervals import distance_change, estimate
from .reference import Features, Reference

CHUNK = 64  # images that one worker makes at a time, between two calls of progress
ERROR = 0.05
# of ERROR: what the first plan that is judged may use, the second, the third
SHARES = (0.8, 0.16, 0.04)
# images a projected direction at the first look: below that the interval is too narrow
# (docs/statistics.md)
LEAST = 3

Images = Callable[[Sequence[int]], Array]  # seeds -> (n, c, h, w) in [-1, 1]: a Pipeline
Progress = Callable[[int, int], None]  # pairs done, pairs at most
# what a look says, the level of its interval -> whether that is enough
Settled = Callable[[Verdict, float], bool]


@dataclass(frozen=True)
class Trial:
    """Where a verdict's seeds begin, and the level that all its looks hold at together."""

    first_seed: int
    level: float


@dataclass(frozen=True)
class Terms:
    """What images must be to be as good: a change of the distance within +-budget, seen on
    `maximum` pairs at most, and a PSNR.

    When the verdict on one plan is not "within", a safer one is judged on seeds of its own: so the
    error of 5 % is shared among as many plans as SHARES has, and a bundle is wrongly "within" no
    more often than if there had been one.
    """

    budget: float
    maximum: int
    psnr: float = 0.0

    def __post_init__(self) -> None:
        """UsageError for more pairs than there are seeds for all plans that may be judged."""
        most = EVIDENCE.count // len(SHARES)
        if not 0 < self.maximum <= most:
            raise UsageError(
                "E-SEED", f"a verdict takes 1 to {most} image pairs, got {self.maximum}"
            )

    def trial(self, number: int) -> Trial:
        """Of plan 0, 1, ... len(SHARES) - 1."""
        seeds = EVIDENCE.take(self.maximum, number * self.maximum)
        return Trial(seeds[0], 1 - ERROR * SHARES[number])

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class FullSide:
    """The full-precision pipeline's images and features for seeds start, start + 1, ...: made on
    demand, shared by runtimes.

    workers: runs of CHUNK images that are made at once, here and by who compares with them; nothing
    but the time depends on it.
    """

    def __init__(
        self,
        images: Images,
        features: Features,
        reference: Reference,
        start: int = EVIDENCE.first,
        workers: int = 1,
    ) -> None:
        """Raises ReferenceMismatch when the reference was made with another feature network."""
        reference.check(features)
        self.images, self.features, self.reference, self.start = images, features, reference, start
        self.workers = workers
        self._pixels: list[np.ndarray] = []
        self._projected: list[Array] = []

    def __len__(self) -> int:
        return len(self._pixels)

    def seeds(self, first: int, last: int) -> range:
        """Seeds of images first .. last - 1."""
        return range(self.start + first, self.start + last)

    def make(self, part: range) -> tuple[np.ndarray, Array]:
        """Pixels and features of these images, which are not kept: several threads may ask."""
        images = to_uint8(self.images(self.seeds(part.start, part.stop)))
        return images, self.features(images)

    def keep(self, pixels: np.ndarray, features: Array) -> None:
        """What was made of the images behind those that are there."""
        self._projected.extend(self.reference.project(features))
        self._pixels.extend(pixels)

    def kept(self, first: int, last: int) -> list[np.ndarray]:
        """Images first .. last - 1 that are there, one by one."""
        return self._pixels[first:last]

    def pixels(self, first: int, last: int) -> np.ndarray:
        """Images first .. last - 1 as (n, h, w, 3) uint8, made when they are not there yet."""
        for pixels, features in over_workers(self.make, runs(len(self), last, CHUNK), self.workers):
            self.keep(pixels, features)
        return np.stack(self._pixels[first:last])

    def projected(self, count: int) -> Array:
        """Projected features of the first `count` images, (count, k)."""
        self.pixels(0, count)
        return np.stack(self._projected[:count])

    def project(self, images: np.ndarray) -> Array:
        """uint8 images (n, h, w, 3) -> (n, k)."""
        return self.reference.project(self.features(images))


@dataclass(frozen=True)
class Comparison:
    """What one pipeline's images are worth against full precision; distances are squared Frechet
    distances after projection.
    """

    # its interval holds at `look_level`, so that all looks together hold at `level`
    verdict: Verdict
    distance_full: Interval  # to the reference, corrected for the number of samples, at `level`
    distance_other: Interval
    distance_between: float  # of the two sets; 0 for equal images
    # of the mean squared error over all pixels of all pairs; infinite for equal images
    psnr_db: float
    psnr_median_db: float  # median over pairs
    images: int  # pairs
    first_seed: int
    features: str
    size: int  # pixels a side the features were taken at
    reference: str
    reference_sha256: str
    looks: tuple[int, ...]  # pairs at each look taken
    level: float
    look_level: float

    def to_json(self) -> dict[str, Any]:
        """The manifest's form; a PSNR of null says that no pixel differs."""

        def interval(i: Interval) -> dict[str, float]:
            return {"value": i.value, "low": i.low, "high": i.high}

        def decibel(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "verdict": self.verdict.state,
            "more": self.verdict.more,
            "budget": self.verdict.budget,
            "change": interval(self.verdict.change),
            "distance_full": interval(self.distance_full),
            "distance_other": interval(self.distance_other),
            "distance_between": self.distance_between,
            "psnr_db": decibel(self.psnr_db),
            "psnr_median_db": decibel(self.psnr_median_db),
            "images": self.images,
            "first_seed": self.first_seed,
            "last_seed": self.first_seed + self.images - 1,
            "features": self.features,
            "size": self.size,
            "reference": self.reference,
            "reference_sha256": self.reference_sha256,
            "looks": list(self.looks),
            "level": self.level,
            "look_level": self.look_level,
        }


@dataclass(frozen=True)
class LookSchedule:
    """When a comparison looks at what it has: after `first` pairs, twice that, ..., `maximum`; all
    intervals hold together at `level`.
    """

    first: int = 500
    maximum: int = 4000
    level: float = 0.95

    @classmethod
    def once(cls, pairs: int) -> LookSchedule:
        """One look, at all pairs."""
        return cls(pairs, pairs)


def plan_looks(first: int, maximum: int, level: float) -> list[tuple[int, float]]:
    """(pairs, level of the interval) of each look: first, twice that, ..., maximum.

    The error 1 - level is shared out in proportion to the pairs at each look (a weighted Bonferroni
    bound), so all intervals hold together at `level` whenever the sampling stops, and the last and
    sharpest look keeps about half of it.
    """
    if not 0 < first <= maximum or not 0 < level < 1:
        raise UsageError(
            "E-LOOKS",
            f"need 0 < first <= maximum and a level in (0, 1), got {first}, {maximum}, {level}",
        )
    counts = [first]
    while counts[-1] < maximum:
        counts.append(min(2 * counts[-1], maximum))
    return [(count, 1 - (1 - level) * count / sum(counts)) for count in counts]


def first_look(reference: Reference) -> int:
    """Pairs at the first look: at least 500, and four a projected direction, where the interval
    covers what it says.
    """
    return max(500, 4 * reference.k)


def decided(verdict: Verdict, look_level: float) -> bool:
    """When a comparison that is to be published ends."""
    return verdict.state != "undecided"


def chance(verdict: Verdict, look_level: float, pairs: int, level: float = 0.95) -> float:
    """Probability, given what was seen, that as many fresh pairs at most end within the budget.

    Seen and future change are normal around the true one, of which nothing else is known; the last
    of the looks decides.
    """
    error = (
        (verdict.change.high - verdict.change.low) / 2 / NormalDist().inv_cdf((1 + look_level) / 2)
    )
    later = error * math.sqrt(verdict.images / pairs)
    # the last look keeps half of the error, or more
    room = verdict.budget - NormalDist().inv_cdf(1 - (1 - level) / 4) * later
    if not verdict.change.finite or room <= 0:
        return 0.0
    if error == 0:
        return float(abs(verdict.change.value) <= room)
    expected = NormalDist(verdict.change.value, math.hypot(error, later))
    return expected.cdf(room) - expected.cdf(-room)


def compare(
    full: FullSide,
    other: Images,
    budget: float,
    when: LookSchedule | None = None,
    progress: Progress | None = None,
    settled: Settled = decided,
) -> Comparison:
    """Paired images from growing runs of seeds until the change of the distance is within or
    outside +-budget, or at the last look.

    budget: fraction of the full-precision distance, such as 0.02. settled: another reason to end
    than a verdict. Raises GateFailed when an image of `other` is not finite, UsageError when the
    first look is too small for the reference's projection.
    """
    when = when or LookSchedule()
    _check_first_look(when, full.reference)
    looks = plan_looks(when.first, when.maximum, when.level)
    projected: list[Array] = []
    errors: list[float] = []
    for count, look_level in looks:
        for features, error in paired(full, other, len(errors), count):
            projected.extend(full.reference.project(features))
            errors.extend(error)
            if progress:
                progress(len(errors), when.maximum)
        ours = estimate(full.reference.moments, full.projected(count))
        its = estimate(full.reference.moments, np.stack(projected))
        try:
            verdict = Verdict(distance_change(ours, its, look_level), budget, count)
        except EdgegenError as error:
            if error.code != "E-FID-SCALE" or count == when.maximum:
                raise
            continue  # a small distance may still show itself with more images
        if settled(verdict, look_level):
            break
    other_features = np.stack(projected)
    psnr = PairedPsnr.of(np.array(errors))
    return Comparison(
        verdict=verdict,
        distance_full=ours.interval(when.level),
        distance_other=its.interval(when.level),
        distance_between=frechet(
            Moments.of(full.projected(len(projected))), Moments.of(other_features)
        ),
        psnr_db=psnr.pooled_db,
        psnr_median_db=psnr.median_db,
        images=len(projected),
        first_seed=full.start,
        features=full.features.name,
        size=full.features.size,
        reference=full.reference.name,
        reference_sha256=full.reference.sha256,
        looks=tuple(n for n, _ in looks if n <= count),
        level=when.level,
        look_level=look_level,
    )


def _check_first_look(when: LookSchedule, reference: Reference) -> None:
    """UsageError where the interval of the first look would be too narrow."""
    if when.first < LEAST * reference.k:
        raise UsageError(
            "E-LOOKS",
            f"the first look needs at least {LEAST * reference.k} images for "
            f"{reference.k} projected directions, got {when.first}",
        )


def paired(
    full: FullSide, other: Images, first: int, last: int
) -> Iterator[tuple[Array, np.ndarray]]:
    """Of pairs first .. last - 1, run by run: features of the other side's images (n, dim) and
    squared errors (n,).
    """
    known = len(full)

    def made(part: range) -> tuple[tuple[np.ndarray, Array] | None, Array, np.ndarray]:
        fresh = full.make(range(max(part.start, known), part.stop)) if part.stop > known else None
        mine = full.kept(part.start, min(part.stop, known)) + ([] if fresh is None else [*fresh[0]])
        theirs = pixels_of(other, full.seeds(part.start, part.stop))
        if mine[0].shape != theirs.shape[1:]:
            raise EdgegenError(
                "E-SHAPE",
                f"the pipelines give images of shape {mine[0].shape} and {theirs.shape[1:]}",
            )
        return fresh, full.features(theirs), squared_error(np.stack(mine), theirs)

    for fresh, features, error in over_workers(made, runs(first, last, CHUNK), full.workers):
        if fresh is not None:
            full.keep(*fresh)
        yield features, error


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
