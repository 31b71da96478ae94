"""Decide when to stop a training on few photos: no look is better beyond noise any more, or photos
are remembered. It needs numpy only.

A look is a step's samples, always of the same seeds, compared with the same held-out photos. The
rule is a function of the looks alone; kept as JSON, it continues after a resume as if nothing had
happened.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from ..core.files import JsonObject, is_version
from ..core.verdict import Interval
from ..errors import EdgegenError, InputError
from .memory import Limits, Memory
from .small_sample_distance import Distance, change

VERSION = 1


@dataclass(frozen=True)
class Look:
    """Hold what was seen at a step; `novelty` is the features' ratio, `membership` the AUC of the
    attack.
    """

    step: int
    kid: Interval
    near_copies: int
    novelty: float
    membership: Interval

    def __post_init__(self) -> None:
        if self.step < 0 or self.near_copies < 0:
            raise ValueError(
                f"a look has a step and near-copies of 0 or more, got {self.step} and "
                f"{self.near_copies}"
            )
        if not (self.kid.finite and self.membership.finite and math.isfinite(self.novelty)):
            raise EdgegenError(
                "E-NONFINITE", f"the look at step {self.step} holds NaN or infinite values"
            )


@dataclass(frozen=True)
class Rule:
    """Hold the rule: `patience` is the number of looks without a better one before the end,
    `limits` bound what may be remembered, and `level` is that of "better".
    """

    patience: int = 5
    limits: Limits = field(default_factory=Limits)
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 < self.level < 1:
            raise ValueError(
                f"a rule needs patience >= 1 and a level in (0, 1), got {self.patience} and "
                f"{self.level}"
            )


@dataclass(frozen=True)
class Decision:
    """Hold the state, and why in a sentence.

    `best` is the step with the lowest distance among those where nothing is remembered, None if
    there is none.
    """

    state: Literal["go on", "no better", "remembers"]
    why: str
    best: int | None

    @property
    def stop(self) -> bool:
        return self.state != "go on"


@dataclass(frozen=True, eq=False)
class Watch:
    """Hold the looks so far.

    `marks` has the number and the distance of each look that beat the mark before it beyond noise;
    the first look is one. A look is compared with the last mark and not with the best so far, so
    that many small steps down add up to an improvement.
    """

    rule: Rule = field(default_factory=Rule)
    looks: tuple[Look, ...] = ()
    marks: tuple[tuple[int, Distance], ...] = ()

    def look(self, step: int, distance: Distance, memory: Memory) -> Watch:
        """Return the watch with one more look.

        Raises ValueError for a step that is not after the last, other seeds or other photos.
        """
        seen = Look(
            step, distance.interval(), memory.near_copies, memory.features.ratio, memory.membership
        )
        return self.add(seen, distance)

    def add(self, seen: Look, distance: Distance) -> Watch:
        """Return the watch with one more look, given as a Look."""
        if self.looks and seen.step <= self.looks[-1].step:
            raise ValueError(f"looks go forward: step {seen.step} after step {self.looks[-1].step}")
        better = not self.marks or change(self.marks[-1][1], distance, self.rule.level).high < 0
        mark = ((len(self.looks), distance),) if better else ()
        return replace(self, looks=(*self.looks, seen), marks=(*self.marks, *mark))

    def rewind(self, step: int) -> Watch:
        """Return the watch as it was at `step`, for a run that resumes from a checkpoint older than
        its last look.
        """
        looks = tuple(seen for seen in self.looks if seen.step <= step)
        return replace(
            self, looks=looks, marks=tuple(mark for mark in self.marks if mark[0] < len(looks))
        )

    @property
    def decision(self) -> Decision:
        """Return the decision after the last look."""
        if not self.looks:
            return Decision("go on", "nothing was looked at yet", None)
        clean = [seen for seen in self.looks if not self._faults(seen)]
        best = min(clean, key=lambda seen: seen.kid.value).step if clean else None
        last, mark = self.looks[-1], self.marks[-1][0]
        if faults := self._faults(last):
            return Decision("remembers", f"step {last.step}: " + "; ".join(faults), best)
        waited = len(self.looks) - 1 - mark
        since = f"{waited} looks since step {self.looks[mark].step} were not better beyond noise"
        if waited >= self.rule.patience:
            return Decision("no better", since, best)
        return Decision("go on", f"{since}, patience {self.rule.patience}", best)

    def _faults(self, seen: Look) -> tuple[str, ...]:
        return self.rule.limits.faults(seen.near_copies, seen.novelty, seen.membership)

    def to_json(self) -> JsonObject:
        return {
            "version": VERSION,
            "rule": asdict(self.rule),
            "looks": [asdict(seen) for seen in self.looks],
            "marks": [{"look": number, **distance.to_json()} for number, distance in self.marks],
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Watch:
        """Read what to_json returned. Raises InputError E-WATCH for anything else."""
        try:
            return cls._read(data)
        except (KeyError, TypeError, ValueError, EdgegenError) as error:
            raise InputError(
                "E-WATCH", f"not a usable record of looks: {error}", hint="begin the run anew"
            ) from error

    @classmethod
    def _read(cls, data: JsonObject) -> Watch:
        if not is_version(data["version"], VERSION):
            raise ValueError(f"version {data['version']}, this edgegen reads {VERSION}")
        rule = Rule(**{**data["rule"], "limits": Limits(**data["rule"]["limits"])})
        looks = tuple(
            Look(
                **{
                    **seen,
                    "kid": Interval(**seen["kid"]),
                    "membership": Interval(**seen["membership"]),
                }
            )
            for seen in data["looks"]
        )
        marks = tuple((mark["look"], Distance.from_json(mark)) for mark in data["marks"])
        steps, numbers = [seen.step for seen in looks], [number for number, _ in marks]
        if (
            steps != sorted(set(steps))
            or numbers != sorted(set(numbers))
            or numbers[:1] != [0][: len(looks)]
            or any(number >= len(looks) for number in numbers)
        ):
            raise ValueError("steps or marks are out of order")
        return cls(rule, looks, marks)
