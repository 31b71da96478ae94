"""What the search for a plan took, question by question, what that had been expected to take, and
what was not asked: for the manifest, `edgegen plan show`, and the search itself, which spends no
more than it may.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...core.files import JsonObject


@dataclass
class BillLine:
    """Questions of one kind. expected: seconds, None where no one said before."""

    asked: int = 0
    seconds: float = 0.0
    expected: float | None = None


@dataclass
class Bill:
    """Seconds are those of who found the answers, now or before: a search that is repeated has the
    same bill, and stops at the same question.
    """

    allowed: float = math.inf  # seconds for all steps
    steps: dict[str, BillLine] = field(default_factory=dict)
    damages: str = ""  # how the damage of layers was found
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
