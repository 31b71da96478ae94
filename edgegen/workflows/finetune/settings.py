"""What fine-tuning and recovery may be asked for. (imports nothing heavy: the command line takes
its defaults from here)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ...errors import UsageError
from ...training.adapt import Kind
from ..durations import seconds_of
from ..limits import Limit, check_numbers
from ..photo_sets import fit_of, on_bad_of

PRECISIONS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class FinetuneSettings:
    """How to adapt. What is None is as the resumed run recorded it, else the family's or the
    default.
    """

    resume: bool = False  # go on with the run in the folder, bit for bit
    size: int | None = None  # pixels a side, the base's or more; the base's
    rank: int | None = None  # of the adapters; 0 trains every weight instead
    precision: str | None = None  # of the frozen base while it trains: fp32, int8 or nf4; fp32
    adam8bit: bool | None = None  # keep the optimizer's state in 8 bits
    recompute: bool | None = None  # compute blocks twice: less memory, more time
    steps: int | None = None  # training steps
    time: str | None = None  # as many steps as fit into it: 45m, 2h, 90s
    batch: int | None = None  # images a step
    rate: float | None = None  # Adam's learning rate
    held_out: float | None = None  # share of the photos that is not trained on
    evaluations: int | None = None  # times the held-out photos are compared; 8
    patience: int | None = None  # evaluations without improvement before it ends; 3
    classes: bool | None = None  # that folders and tables say are learned; True
    follow_links: bool | None = None  # to photos inside the folder; False
    max_megapixels: int | None = None  # of a photo; 256 for a JPEG, 64 for others
    seed: int | None = None  # of order, noise and adapters; 0
    device: str | None = None  # "cpu" or "cuda"; cpu
    on_bad: str = "skip"  # what an unreadable photo does: skip or fail
    fit: str | None = None  # photos that are not square: pad or crop; pad
    background: str | None = None  # a colour; white
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # of a network that is no package's

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise UsageError(
                "E-USAGE",
                f"--base must be {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, got "
                f"{self.precision!r}",
            )
        if self.time is not None:
            seconds_of(self.time)
        if self.steps is not None and self.time is not None:
            raise UsageError(
                "E-USAGE",
                "--steps and --time exclude each other: both set the length of the training",
            )
        on_bad_of(self.on_bad)
        fit_of(self.fit)


@dataclass(frozen=True)
class RecoverSettings:
    """How to learn against rounding; rank None is twice the family's."""

    rank: int | None = None  # of the adapters, 1 or more
    steps: int = 150
    batch: int = 8  # images a step
    rate: float = 2e-3  # of Adam, as a share of a weight
    seed: int = 0  # of the adapters
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # of a network that is no package's

    def __post_init__(self) -> None:
        check_numbers(self, rank=Limit(1, 4096))
