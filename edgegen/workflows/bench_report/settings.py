"""What a report of a bench measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.reader import Places
from ..limits import Limit, check_numbers


@dataclass(frozen=True)
class BenchReportSettings:
    """How much is measured, and what is asked of it."""

    batch: int = 8  # images of the larger batch that is timed; one image is timed in any case
    rounds: int = 25  # timed rounds, interleaved over all candidates
    threads: int = 1  # CPU threads of each runtime
    pairs: int = 64  # seeds whose images are compared with full precision
    runtimes: Sequence[str] | None = None  # None: every runtime of the bundles
    min_psnr_db: float = 35.0  # of all pairs; one class may lie 3 dB below
    max_ruined: float = 0.002  # share of pairs that may be told apart at a glance
    gates: Path | None = None  # TOML file of what each row must keep to
    overwrite: bool = False  # replace an earlier report
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    trust_engines: bool = False  # execute GPU engines that no signature vouches for
    least_release: int | None = None  # refuse what was signed as an older release

    def __post_init__(self) -> None:
        check_numbers(self, threads=Limit(1, 1024))

    @property
    def batches(self) -> tuple[int, ...]:
        """That are timed, the smallest first."""
        return (1, self.batch) if self.batch > 1 else (1,)
