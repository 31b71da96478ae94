"""Who draws which seeds: one table, so that what was calibrated or searched on never judges.

Every image that edgegen makes of its own accord takes its seeds from here. The ranges are disjoint;
a count that would leave its range is refused, however it was asked for. Seeds of `generate`,
`explain` and `damage` are the user's own and may lie anywhere.
"""

from __future__ import annotations

import hashlib
import secrets
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UsageError

# What is learnt from an image: scales and weights, which plan is taken, or how good the result is.
Use = Literal["calibration", "search", "verdict"]
USES: tuple[Use, ...] = get_args(Use)


@dataclass(frozen=True)
class SeedRange:
    """Seeds first, first + 1, ..., first + count - 1, for one purpose; use: what that is in the
    end, if it is any of them.
    """

    purpose: str
    first: int
    count: int
    use: Use | None = None

    @property
    def end(self) -> int:
        """The first seed behind the range."""
        return self.first + self.count

    def take(self, count: int, offset: int = 0) -> range:
        """`count` seeds from the one at `offset` on; UsageError where the range has fewer."""
        if offset < 0 or count < 0 or offset + count > self.count:
            raise UsageError(
                "E-SEED",
                f"{self.purpose} has {self.count} seeds, and {offset + count} are asked for",
                hint="ask for fewer images",
            )
        return range(self.first + offset, self.first + offset + count)

    def following(self, count: int, *what: object) -> range:
        """`count` seeds from a place that follows from `what`, the same on every machine."""
        word = hashlib.sha256(repr(what).encode()).digest()[:8]
        return self.take(count, int.from_bytes(word, "little") % (self.count - count))

    def drawn(self, count: int) -> range:
        """`count` seeds from a place that the operating system draws: nobody chose it."""
        return self.take(count, secrets.randbelow(self.count - count))


LIMIT = 1 << 62  # seeds of anything, a bundle from elsewhere included, lie below
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
# so high that seeds which users took before keep the prompts that they had
BENCH_PAIRS = SeedRange("the pairs of edgegen bench", 1 << 41, MILLION, "verdict")
# where a verdict begins follows from what it judges: nobody chooses it
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
    """What an image of that seed is for; None for a seed of nobody's range."""
    place = bisect_right(_FIRSTS, seed) - 1
    return RANGES[place].use if place >= 0 and seed < RANGES[place].end else None
