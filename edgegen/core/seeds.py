"""The table of seed ranges, so that no verdict uses an image that calibration or a search has seen.

Every image that edgegen makes on its own takes its seeds from here. The ranges are disjoint, and a
count that would leave its range is refused. The user chooses the seeds of `generate`, `explain` and
`damage`, which may lie anywhere.
"""

from __future__ import annotations

import hashlib
import secrets
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError

# What an image decides: scales and weights, the choice of a plan, or the quality of the result.
Use = Literal["calibration", "search", "verdict"]
USES: tuple[Use, ...] = get_args(Use)


@dataclass(frozen=True)
class SeedRange:
    """The seeds first, first + 1, ..., first + count - 1 for one purpose; use: the use of that
    purpose, or None.
    """

    purpose: str
    first: int
    count: int
    use: Use | None = None

    @property
    def end(self) -> int:
        """The first seed after the range."""
        return self.first + self.count

    def take(self, count: int, offset: int = 0) -> range:
        """Return `count` seeds, starting at `offset` in the range. UsageError if it has fewer."""
        if offset < 0 or count < 0 or offset + count > self.count:
            raise UsageError(
                "E-SEED",
                f"{self.purpose} has {self.count} seeds, and {offset + count} are asked for",
                hint="ask for fewer images",
            )
        return range(self.first + offset, self.first + offset + count)

    def following(self, count: int, *what: object) -> range:
        """Return `count` seeds at a place that a hash of `what` decides, on every machine alike."""
        word = hashlib.sha256(repr(what).encode()).digest()[:8]
        return self.take(count, int.from_bytes(word, "little") % (self.count - count))

    def drawn(self, count: int) -> range:
        """Return `count` seeds at a place that the operating system draws at random."""
        return self.take(count, secrets.randbelow(self.count - count))


LIMIT = 1 << 62  # all seeds are smaller, including those of bundles made elsewhere
MILLION = 1_000_000
CALIBRATION = SeedRange("calibration", 0, MILLION, "calibration")
EVIDENCE = SeedRange("the images that a bundle keeps", 1 * MILLION, MILLION, "verdict")
SEARCH = SeedRange("the search of a plan", 2 * MILLION, MILLION, "search")
PERIODIC_EVALUATION = SeedRange("looking at a fine-tuning", 3 * MILLION, MILLION, "search")
RECOVERY_TRAINING = SeedRange("the training of a recovery", 4 * MILLION, 900_000, "calibration")
RECOVERY_CHOICE = SeedRange("choosing a state of a recovery", 4_900_000, 100_000, "search")
RECOVERY_JUDGEMENT = SeedRange("the judgement of a recovery", 5 * MILLION, MILLION, "verdict")
DAMAGE_MAP = SeedRange("a damage map", 6 * MILLION, 500_000, "search")
REGION_PROTECTION = SeedRange("the protection of regions", 6_500_000, 500_000, "search")
BENCHMARKS = SeedRange("a benchmark of the repository", 7 * MILLION, MILLION, "verdict")
GPU_SUITE = SeedRange("the measurements on a GPU", 8 * MILLION, MILLION, "verdict")
EXPLANATION_BASELINE = SeedRange("the baseline of an explanation", 1 << 40, MILLION)
# So high that the seeds of users' earlier images keep their prompts.
BENCH_PAIRS = SeedRange("the pairs of edgegen bench", 1 << 41, MILLION, "verdict")
# A hash of what is judged decides where a verdict's seeds begin, so nobody can choose them.
VERDICTS = SeedRange("the pairs of a verdict", 1 << 42, 1 << 42, "verdict")
FRESH_EVIDENCE = SeedRange("evidence on fresh seeds", 1 << 43, 1 << 43, "verdict")

RANGES = (
    CALIBRATION,
    EVIDENCE,
    SEARCH,
    PERIODIC_EVALUATION,
    RECOVERY_TRAINING,
    RECOVERY_CHOICE,
    RECOVERY_JUDGEMENT,
    DAMAGE_MAP,
    REGION_PROTECTION,
    BENCHMARKS,
    GPU_SUITE,
    EXPLANATION_BASELINE,
    BENCH_PAIRS,
    VERDICTS,
    FRESH_EVIDENCE,
)
_FIRSTS = [one.first for one in RANGES]


def use_of(seed: int) -> Use | None:
    """Return the use of images with that seed; None outside all ranges, or if there is no use."""
    place = bisect_right(_FIRSTS, seed) - 1
    return RANGES[place].use if place >= 0 and seed < RANGES[place].end else None
