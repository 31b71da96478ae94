"""What images must be to be as good as full precision, and how the error is shared among those who
try.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..core.seeds import VERDICTS
from ..errors import UsageError
from .shares import ShareLooks

ERROR = 0.05  # probability that images which break a limit pass, all attempts together
FIRST_SHARE = 0.8  # of ERROR, that the first attempt may use; all others share the rest
# pairs whose pixels alone are compared, for each of those whose features are
PIXEL_PAIRS = 5
FEWEST_PAIRS = 64  # whose features are compared: what large models can afford
MOST_PAIRS = 1_000_000  # whose pixels are compared
WORSE_CLASS_DB = 3.0  # that one class may lie below the PSNR asked of all: twice the error


def share(number: int) -> float:
    """Of ERROR, what attempt 0, 1, 2, ... may use: 0.8, then 0.1, 0.033, 0.017, ...; together 1."""
    return FIRST_SHARE if number == 0 else (1 - FIRST_SHARE) / (number * (number + 1))


@dataclass(frozen=True)
class Trial:
    """Where a verdict's seeds begin, the level that all its looks hold at together, and which
    attempt at these full-precision weights it is.
    """

    first_seed: int
    level: float
    number: int = 0


def trial(weights: str, number: int) -> Trial:
    """Of an attempt at these full-precision weights, named by their hash."""
    return Trial(VERDICTS.following(MOST_PAIRS, weights, number)[0], level(number), number)


def level(number: int) -> float:
    """That all looks of an attempt hold at together."""
    return 1 - ERROR * share(number)


@dataclass(frozen=True)
class Terms:
    """What images must be to be as good, each with an interval on `maximum` pairs at most."""

    budget: float  # change of the Frechet distance to the reference, either way, as a fraction
    maximum: int  # pairs whose features are compared; PIXEL_PAIRS times as many by pixels alone
    psnr: float = 0.0  # dB over all pairs; one class may lie WORSE_CLASS_DB below
    ruined: float = 0.002  # share of pairs that anybody would tell apart
    # mean square that an image's features move, and distance of the two sets, over the mean square
    # from seed to seed
    moved: float = 0.05
    apart: float = 0.005
    # False where there is no reference, or one of other photos: the distance is then told, where
    # it can be, and decides nothing
    is_distance_counted: bool = True
    pixels: int = 0  # pairs at most whose pixels are compared; 0: PIXEL_PAIRS times `maximum`

    def __post_init__(self) -> None:
        """UsageError for more pairs than a verdict has seeds for, and for limits that are none."""
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
        """dB that the images of each class must reach."""
        return max(self.psnr - WORSE_CLASS_DB, 0.0)

    def tail_looks(self, level: float) -> ShareLooks:
        """When the ruined pairs are counted; all looks hold at this level."""
        return ShareLooks(min(self.ruined, math.nextafter(1, 0)), 1 - level, self.pixel_pairs)

    @property
    def pixel_pairs(self) -> int:
        """Pairs at most whose pixels are compared."""
        return self.pixels or PIXEL_PAIRS * self.maximum

    @property
    def fewest(self) -> int:
        """Pairs whose pixels can show what is asked of ruined ones; never below what a verdict
        takes.
        """
        return max(self.tail_looks(level(0)).first, FEWEST_PAIRS)

    def check_enough(self) -> None:
        """UsageError where so few pairs cannot show what is asked of ruined ones, whatever the
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
        """Only what is asked: a distance that is counted is not said to be, nor pixels that follow
        from the maximum.
        """
        found = asdict(self)
        if not self.pixels:
            del found["pixels"]
        if self.is_distance_counted:
            del found["is_distance_counted"]
        return found
