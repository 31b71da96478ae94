"""Refuse absurd numbers where settings are made and not where they are used, with one table for
every number that a program or a command line can set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class Limit:
    """Define the range of a number from `least` to `most`; `open` excludes both ends, `whole`
    excludes fractions.

    `flag` is the name on the command line, if it differs.
    """

    least: float
    most: float
    whole: bool = True
    open: bool = False
    flag: str = ""

    def fault(self, value: object) -> str:
        """Return what is wrong with the value, or "" if it is allowed."""
        if type(value) is not int and (self.whole or type(value) is not float):
            return f"must be a {'whole ' if self.whole else ''}number, got {value!r}"
        assert isinstance(value, int | float)
        if self.open and not self.least < value < self.most:
            return f"must be above {self.least:g} and below {self.most:g}, got {value}"
        if not value >= self.least:  # written so that NaN fails
            return f"must be {self.least:g} or more, got {value}"
        return f"must be {self.most:.12g} or less, got {value}" if value > self.most else ""


MANY = 10**9  # more steps, seeds or images than any machine can work through
SEEDS = 2**63 - 1

# The keys are field names; a settings class may narrow its own fields.
LIMITS: Mapping[str, Limit] = {
    "threads": Limit(0, 1024),
    # photos
    "max_megapixels": Limit(1, 1000, flag="--max-megapixels"),
    # training
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
    # bundles
    "least_release": Limit(0, 2**31 - 1, flag="--least-release"),
    # images and what is measured of them
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
    """Raise UsageError for a field of the settings that is out of its range; None means
    not given.

    `narrower` replaces ranges for this class alone.
    """
    limits = {**LIMITS, **narrower}
    for field in fields(settings):
        value, limit = getattr(settings, field.name), limits.get(field.name)
        if value is not None and limit is not None and (fault := limit.fault(value)):
            raise UsageError("E-USAGE", f"{limit.flag or field.name} {fault}")
