"""State the terms under which images count as good as full precision, and divide the error among
the attempts at them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..core.seeds import VERDICTS
from ..errors import UsageError
from .shares import ShareLooks

ERROR = 0.05  # probability that images which break a limit pass, over all attempts together
FIRST_SHARE = 0.8  # share of ERROR that the first attempt may use; all others divide the rest
# pairs that are compared by pixels alone, for each pair whose features are compared
PIXEL_PAIRS = 5
FEWEST_PAIRS = 64  # least pairs whose features are compared, which large models can afford
MOST_PAIRS = 1_000_000  # most pairs whose pixels are compared
WORSE_CLASS_DB = 3.0  # dB that one class may lie below the PSNR required of all: twice the error


def share(number: int) -> float:
    """Return the share of ERROR that attempt 0, 1, 2, ... may use: 0.8, then 0.1, 0.033, 0.017,
    ...; they add up to 1.
    """
    return FIRST_SHARE if number == 0 else (1 - FIRST_SHARE) / (number * (number + 1))


@dataclass(frozen=True)
class Trial:
    """Hold where a verdict's seeds begin, the level that all its looks hold at together, and the
    number of the attempt at these full-precision weights.
    """

    first_seed: int
    level: float
    number: int = 0


def trial(weights: str, number: int) -> Trial:
    """Return the trial of an attempt at the full-precision weights that have this hash."""
    return Trial(VERDICTS.following(MOST_PAIRS, weights, number)[0], level(number), number)


def level(number: int) -> float:
    """Return the level that all looks of an attempt hold at together."""
    return 1 - ERROR * share(number)


@dataclass(frozen=True)
class Terms:
    """Hold the limits that images must keep, each with an interval on at most `maximum` pairs."""

    budget: float  # largest relative change of the Frechet distance to the reference, up or down
    # most pairs whose features are compared; PIXEL_PAIRS times as many are compared by pixels
    maximum: int
    psnr: float = 0.0  # dB over all pairs; one class may lie WORSE_CLASS_DB below
    ruined: float = 0.002  # largest share of pairs that anybody can tell apart
    # limits of the mean square that an image's features move, and of the distance of the two sets,
    # over the mean square between two seeds
    moved: float = 0.05
    apart: float = 0.005
    # False if there is no reference, or one of other photos: the distance is then reported, if it
    # can be, but decides nothing
    is_distance_counted: bool = True
    pixels: int = 0  # most pairs whose pixels are compared; 0: PIXEL_PAIRS times `maximum`

    def __post_init__(self) -> None:
        """Raise UsageError for more pairs than a verdict has seeds for, and for limits out of
        range.
        """
        most = MOST_PAIRS // PIXEL_PAIRS
        if not 0 < self.maximum <= most:
            raise UsageError(
                "E-SEED", f"a verdict takes 1 to {most} image pairs, got {self.maximum}"
            )
        if self.pixels and not self.maximum <= self.pixels <= MOST_PAIRS:
            raise UsageError(
                "E-SEED",
                f"of {self.maximum} to {MOST_PAIRS} image pairs the pixels are compared, got "
                f"{self.pixels}",
            )
        for name in ("ruined", "moved", "apart"):
            if not 0 < (limit := getattr(self, name)) <= 1:
                raise UsageError(
                    "E-USAGE", f"the limit of {name} must be above 0 and at most 1, got {limit}"
                )

    @property
    def class_psnr(self) -> float:
        """Return the PSNR in dB that the images of each class must reach."""
        return max(self.psnr - WORSE_CLASS_DB, 0.0)

    def tail_looks(self, level: float) -> ShareLooks:
        """Return when the ruined pairs are counted; all looks hold at this level together."""
        return ShareLooks(min(self.ruined, math.nextafter(1, 0)), 1 - level, self.pixel_pairs)

    @property
    def pixel_pairs(self) -> int:
        """Return the most pairs whose pixels are compared."""
        return self.pixels or PIXEL_PAIRS * self.maximum

    @property
    def fewest(self) -> int:
        """Return the fewest pairs whose pixels can show the limit on ruined ones, at least
        FEWEST_PAIRS.
        """
        return max(self.tail_looks(level(0)).first, FEWEST_PAIRS)

    def check_enough(self) -> None:
        """Raise UsageError if so few pairs cannot show the limit on ruined ones, however good the
        images are.
        """
        looks = self.tail_looks(level(0))
        if looks.first <= self.pixel_pairs:
            return
        images = -(-looks.first // PIXEL_PAIRS)
        share = f"{math.ceil(looks.least * 1e4) / 1e4:.2%}"
        raise UsageError(
            "E-LOOKS",
            f"{self.pixel_pairs} pairs, {PIXEL_PAIRS} times --max-images, cannot show that at most "
            f"{self.ruined:.4g} of all are ruined: without a single one they show {share}",
            hint=f"say --max-images {images}, or --max-ruined {share}",
        )

    def to_json(self) -> dict[str, float]:
        """Return only the terms that differ from what follows by default: `is_distance_counted`
        only if False, and `pixels` only if set.
        """
        found = asdict(self)
        if not self.pixels:
            del found["pixels"]
        if self.is_distance_counted:
            del found["is_distance_counted"]
        return found
