"""Numbers that nobody would mean are refused where settings are made, not where they are used: one
table for every number that a program or a command line can set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class Limit:
    """From least to most; open: without the two themselves; whole: no fractions. flag: what the
    command line calls it, where that is another name.
    """

    least: float
    most: float
    whole: bool = True
    open: bool = False
    flag: str = ""

    def fault(self, value: object) -> str:
        """What is wrong with the value; nothing where it may be."""
        if type(value) is not int and (self.whole or type(value) is not float):
            return f"must be a {'whole ' if self.whole else ''}number, got {value!r}"
        assert isinstance(value, int | float)
        if self.open and not self.least < value < self.most:
            return f"must be above {self.least:g} and below {self.most:g}, got {value}"
        if not value >= self.least:  # NaN is not
            return f"must be {self.least:g} or more, got {value}"
        return f"must be {self.most:.12g} or less, got {value}" if value > self.most else ""


MANY = 10**9  # steps, seeds, images: more than any machine will see through
SEEDS = 2**63 - 1

# By the name of the field; a settings class may narrow its own.
LIMITS: Mapping[str, Limit] = {
    "threads": Limit(0, 1024),
    # of photos
    "max_megapixels": Limit(1, 1000, flag="--max-megapixels"),
    # of training
    "images": Limit(1, 10**12),
    "batch": Limit(1, 1 << 20),
    "seed": Limit(0, SEEDS),
    "samples_every": Limit(0, MANY),
    "keep": Limit(1, MANY),
    "size": Limit(1, 4096),
    "rank": Limit(0, 4096),
    "steps": Limit(1, MANY),
    "rate": Limit(0, 10, whole=False, open=True, flag="--rate"),
    "held_out": Limit(0, 1, whole=False, open=True, flag="--held-out"),
    "evaluations": Limit(1, MANY),
    "look_images": Limit(8, 10**6),
    "patience": Limit(1, MANY),
    # of bundles
    "least_release": Limit(0, 2**31 - 1, flag="--least-release"),
    # of images and what is measured of them
    "first_seed": Limit(0, SEEDS),
    "count": Limit(1, 10**7),
    "label": Limit(0, MANY),
    "guidance": Limit(0, 100, whole=False),
    "seeds": Limit(1, 1000),
    "rounds": Limit(5, 10**6),
    "pairs": Limit(1, 10**6, flag="--pairs"),
    "samples": Limit(8, MANY),
    "calibration_samples": Limit(8, MANY),
    "max_images": Limit(1, MANY),
    "fid_budget": Limit(1e-9, 1, whole=False),
    "min_psnr_db": Limit(0, 1000, whole=False),
    "max_ruined": Limit(1e-9, 1, whole=False),
    "max_moved": Limit(1e-9, 1, whole=False),
    "max_apart": Limit(1e-9, 1, whole=False),
    "last_steps": Limit(0, 10**6),
    "step": Limit(1, 10**6),
    "baseline": Limit(2, 10**6),
    "others": Limit(0, 10**6),
    "show": Limit(1, 100),
}


def check_numbers(settings: Any, **narrower: Limit) -> None:
    """UsageError names a field of the settings that is out of its range; None is one that was not
    given. narrower: ranges of this class alone.
    """
    limits = {**LIMITS, **narrower}
    for field in fields(settings):
        value, limit = getattr(settings, field.name), limits.get(field.name)
        if value is not None and limit is not None and (fault := limit.fault(value)):
            raise UsageError("E-USAGE", f"{limit.flag or field.name} {fault}")
