"""Record the time that the search for a plan took, question by question, the time that was
expected, and the questions that were not asked.

The manifest and `edgegen plan show` present it, and the search reads it to keep to its limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...core.files import JsonObject


@dataclass
class BillLine:
    """Sum up the questions of one kind; `expected` is in seconds, None if nothing was expected."""

    asked: int = 0
    seconds: float = 0.0
    expected: float | None = None


@dataclass
class Bill:
    """Add up the seconds of a search.

    Answers from the cache count with the seconds that they took first, so that a repeated search
    has the same bill and stops at the same question.
    """

    allowed: float = math.inf  # seconds for all steps together
    steps: dict[str, BillLine] = field(default_factory=dict)
    damages: str = ""  # how the damage of the layers was found
    unasked: list[dict[str, str]] = field(default_factory=list)

    def add(self, step: str, seconds: float, expected: float | None = None) -> None:
        one = self.steps.setdefault(step, BillLine())
        one.asked += 1
        one.seconds += seconds
        if expected is not None:
            one.expected = (one.expected or 0.0) + expected

    @property
    def spent(self) -> float:
        return sum(step.seconds for step in self.steps.values())

    @property
    def left(self) -> float:
        return self.allowed - self.spent

    def to_json(self) -> JsonObject:
        return {
            "allowed_s": None if math.isinf(self.allowed) else round(self.allowed, 1),
            "steps": [
                {
                    "step": name,
                    "asked": step.asked,
                    "seconds": round(step.seconds, 1),
                    "expected_s": None if step.expected is None else round(step.expected, 1),
                }
                for name, step in self.steps.items()
            ],
            "damages": self.damages,
            "unasked": list(self.unasked),
        }
