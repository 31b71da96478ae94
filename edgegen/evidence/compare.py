"""Compare the distances of two pipelines' images on the same seeds, in growing numbers of pairs
until it is decided whether they are equal. It needs numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.spec import Array
from ..core.verdict import Interval, Verdict
from ..errors import EdgegenError, UsageError
from .distances import Float64, Floats, Moments, PairedPsnr, frechet, squared_error
from .full_side import FullSide, Images, Pictured, paired
from .intervals import Estimate, distance_change, estimate
from .looks import LookSchedule, check_first_look, plan_looks
from .movement import along_main, from_seed_to_seed

Progress = Callable[[int, int], None]  # called with the pairs done and the most pairs
# called with the verdict of a look and the level of its interval; True ends the comparison
Settled = Callable[[Verdict, float], bool]
NOT_COUNTED = "not counted"  # stands in place of a state where the distance decides nothing
UNKNOWN = Estimate(math.nan, np.zeros(2))


def number(value: float) -> float | None:
    """Return the value for JSON: None if it is infinite or NaN."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Comparison:
    """Hold what one pipeline's images are worth against full precision; distances are squared
    Frechet distances after projection.
    """

    # its interval holds at `look_level`, so that all looks together hold at `level`
    verdict: Verdict
    # distance to the reference, corrected for the number of samples, at `level`
    distance_full: Interval
    distance_other: Interval
    distance_between: float  # distance between the two sets; 0 for equal images
    # PSNR of the mean squared error over all pixels of all pairs; infinite for equal images
    psnr_db: float
    psnr_median_db: float  # median over pairs
    images: int  # pairs
    first_seed: int
    features: str
    size: int  # pixels a side that the features were computed at
    reference: str | None  # None if no distance to a reference is counted
    reference_sha256: str | None
    # whether the distance is corrected for the reference's own number of images
    is_reference_corrected: bool | None
    looks: tuple[int, ...]  # pairs at each look that was taken
    level: float
    look_level: float
    # mean square of features between two seeds, which distances are compared with
    seed_to_seed: float
    features_sha256: str | None = None  # hash of the feature network, if no reference names it

    @property
    def is_counted(self) -> bool:
        """Return whether the distance to a reference decides; if not, there is none."""
        return self.reference is not None

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's form; a PSNR of null says that no pixel differs, a distance of null
        that there is none.
        """

        def interval(i: Interval) -> dict[str, float | None]:
            return {"value": number(i.value), "low": number(i.low), "high": number(i.high)}

        hashed = {} if self.features_sha256 is None else {"features_sha256": self.features_sha256}
        return {
            "verdict": self.verdict.state if self.is_counted else NOT_COUNTED,
            "more": self.verdict.more if self.is_counted else 0,
            "budget": self.verdict.budget,
            "change": interval(self.verdict.change),
            "distance_full": interval(self.distance_full),
            "distance_other": interval(self.distance_other),
            "distance_between": self.distance_between,
            "psnr_db": number(self.psnr_db),
            "psnr_median_db": number(self.psnr_median_db),
            "images": self.images,
            "first_seed": self.first_seed,
            "last_seed": self.first_seed + self.images - 1,
            "features": self.features,
            **hashed,
            "size": self.size,
            "reference": self.reference,
            "reference_sha256": self.reference_sha256,
            "reference_corrected": self.is_reference_corrected,
            "looks": list(self.looks),
            "level": self.level,
            "look_level": self.look_level,
        }


@dataclass(frozen=True)
class DistanceLook:
    """Hold what `count` pairs say about the distance, at the level of this look."""

    count: int
    level: float
    verdict: Verdict
    full: Estimate
    other: Estimate
    projected: Array  # the other side's features (count, k)
    # features of both sides over which the distance between the sets is computed
    between: tuple[Floats, Floats]

    @property
    def is_counted(self) -> bool:
        """Return whether there is a distance to a reference, which then decides."""
        return self.full is not UNKNOWN


class Pairs:
    """Make pairs of images from the first seed on, with the errors of all and the features of those
    that asked for them.

    `see` is called with all that is made, run by run.
    """

    def __init__(
        self, full: FullSide, other: Images, see: Callable[[Pictured, Float64], None] | None = None
    ) -> None:
        self.full, self.other, self._see = full, other, see
        self._errors: list[float] = []
        self._projected: list[Array] = []
        self._second: list[Array] = []

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def errors(self) -> Float64:
        """Return the mean squared error of each pair, (n,), in units of the full range."""
        return np.array(self._errors)

    def extend(
        self,
        count: int,
        with_features: bool = True,
        progress: Progress | None = None,
        most: int = 0,
    ) -> None:
        """Make pairs until there are `count`."""
        for made in paired(self.full, self.other, len(self), count, with_features):
            if made.features is not None:
                self._projected.extend(self.full.along_reference(made.features))
            if made.second is not None:
                self._second.extend(made.second)
            error = squared_error(made.full, made.other)
            self._errors.extend(error)
            if self._see:
                self._see(made, error)
            if progress:
                progress(len(self), most or count)

    def seen_by_second(self, count: int) -> Array:
        """Return the second judge's features of the other side's first `count` images, (count,
        dim).
        """
        return np.stack(self._second[:count])

    def look(self, count: int, level: float, budget: float) -> DistanceLook:
        """Look at the first `count` pairs, which must all have features.

        Raises EdgegenError E-FID-SCALE if there is a reference but the distance to it is too small
        for a relative change.
        """
        mine, projected = self.full.projected(count), np.stack(self._projected[:count])
        if self.full.reference is None:
            unknown = Verdict(Interval(math.nan, math.nan, math.nan), budget, count)
            between = along_main(mine, projected)
            return DistanceLook(count, level, unknown, UNKNOWN, UNKNOWN, projected, between)
        moments = self.full.reference.moments
        ours, its = estimate(moments, mine), estimate(moments, projected)
        verdict = Verdict(distance_change(ours, its, level), budget, count)
        return DistanceLook(count, level, verdict, ours, its, projected, (mine, projected))

    def looks(
        self, when: LookSchedule, budget: float, progress: Progress | None = None
    ) -> Iterator[DistanceLook]:
        """Yield one look after the other, with more pairs each time, until the caller stops."""
        for count, level in plan_looks(when.first, when.maximum, when.level):
            self.extend(count, progress=progress, most=when.maximum)
            try:
                look = self.look(count, level, budget)
            except EdgegenError as error:
                if error.code != "E-FID-SCALE" or count == when.maximum:
                    raise
                continue  # a small distance may still show itself with more images
            yield look


def decided(verdict: Verdict, look_level: float) -> bool:
    """End a comparison when its verdict is decided; this is the rule for published ones."""
    return verdict.state != "undecided"


def compare(
    full: FullSide,
    other: Images,
    budget: float,
    when: LookSchedule | None = None,
    progress: Progress | None = None,
    settled: Settled = decided,
) -> Comparison:
    """Compare paired images from growing runs of seeds until the change of the distance is within
    or outside +-budget, or at the last look.

    `budget` is a fraction of the full-precision distance, such as 0.02. `settled` may end it for
    another reason than a verdict. Raises GateFailed if an image of `other` is not finite,
    UsageError if there is no reference or the first look is too small for its projection.
    """
    when = when or LookSchedule()
    if full.reference is None:
        raise UsageError("E-FID-REF", "a comparison of distances needs a reference")
    check_first_look(when, full.reference)
    pairs = Pairs(full, other)
    for look in pairs.looks(when, budget, progress):
        if settled(look.verdict, look.level):
            break
    return comparison(pairs, look, when)


def comparison(pairs: Pairs, look: DistanceLook, when: LookSchedule) -> Comparison:
    """Return the comparison from the look that it ended with."""
    full, count, stored = pairs.full, look.count, pairs.full.reference
    psnr = PairedPsnr.of(pairs.errors[:count])
    return Comparison(
        verdict=look.verdict,
        distance_full=look.full.interval(when.level),
        distance_other=look.other.interval(when.level),
        distance_between=frechet(*map(Moments.of, look.between)),
        psnr_db=psnr.pooled_db,
        psnr_median_db=psnr.median_db,
        images=count,
        first_seed=full.start,
        features=full.features.name,
        size=full.features.size,
        reference=stored.name if stored else None,
        reference_sha256=stored.sha256 if stored else None,
        is_reference_corrected=stored.kurtosis is not None if stored else None,
        looks=tuple(n for n, _ in plan_looks(when.first, when.maximum, when.level) if n <= count),
        level=when.level,
        look_level=look.level,
        seed_to_seed=from_seed_to_seed(full.projected(count)),
        features_sha256=None if stored else full.features.sha256,
    )
