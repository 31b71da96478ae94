"""Who draws which seeds: one table, so that what was calibrated or searched on never judges.

Every image that edgegen makes of its own accord takes its seeds from here. The ranges are disjoint;
a count that would leave its range is refused, however it was asked for. Seeds of `generate`,
`explain` and `damage` are the user's own and may lie anywhere.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class SeedRange:
    """Seeds first, first + 1, ..., first + count - 1, for one purpose."""

    purpose: str
    first: int
    count: int

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
CALIBRATION = SeedRange("calibration", 0, MILLION)
EVIDENCE = SeedRange("the images that a bundle keeps", 1 * MILLION, MILLION)
SEARCH = SeedRange("the search of a plan", 2 * MILLION, MILLION)
PERIODIC_EVALUATION = SeedRange("looking at a fine-tuning", 3 * MILLION, MILLION)
RECOVERY_TRAINING = SeedRange("the training of a recovery", 4 * MILLION, 900_000)
RECOVERY_CHOICE = SeedRange("choosing a state of a recovery", 4_900_000, 100_000)
RECOVERY_JUDGEMENT = SeedRange("the judgement of a recovery", 5 * MILLION, MILLION)
DAMAGE_MAP = SeedRange("a damage map", 6 * MILLION, 500_000)
REGION_PROTECTION = SeedRange("the protection of regions", 6_500_000, 500_000)
BENCHMARKS = SeedRange("a benchmark of the repository", 7 * MILLION, MILLION)
GPU_SUITE = SeedRange("the measurements on a GPU", 8 * MILLION, MILLION)
EXPLANATION_BASELINE = SeedRange("the baseline of an explanation", 1 << 40, MILLION)
# where a verdict begins follows from what it judges: nobody chooses it
VERDICTS = SeedRange("the pairs of a verdict", 1 << 42, 1 << 42)
FRESH_EVIDENCE = SeedRange("evidence on fresh seeds", 1 << 43, 1 << 43)

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
    VERDICTS,
    FRESH_EVIDENCE,
)
