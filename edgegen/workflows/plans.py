"""Show what a precision plan keeps in full precision, and why."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.plan import Plan
from ..errors import UsageError
from .bundles import read_bundle


@dataclass(frozen=True)
class SearchRecord:
    """Hold the record of a search as a bundle's manifest keeps it.

    `steps` says what was asked, how often, and the seconds that the answers took and were expected
    to take; `unasked` says which plans were not looked at, and why.
    """

    steps: list[dict[str, Any]]
    damages: str
    unasked: list[dict[str, str]]
    allowed_s: float | None

    @classmethod
    def of(cls, bill: Any) -> SearchRecord | None:
        """Read a bill; None if edgegen cannot have written it, because anyone may write a
        manifest.
        """
        try:
            steps = [
                {
                    "step": str(step["step"]),
                    "asked": int(step["asked"]),
                    "seconds": float(step["seconds"]),
                    "expected_s": _number(step["expected_s"]),
                }
                for step in bill["steps"]
            ]
            unasked = [{"plan": str(o["plan"]), "why": str(o["why"])} for o in bill["unasked"]]
            return cls(steps, str(bill["damages"]), unasked, _number(bill["allowed_s"]))
        except (KeyError, TypeError, ValueError):
            return None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class PlanFile:
    """Hold a plan and the file that it was read from.

    `search` is the record of its search, None if the plan is not from a bundle or the bundle has
    none.
    """

    path: Path
    plan: Plan
    search: SearchRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen plan show --json` prints, without its outer frame."""
        return {
            "plan": str(self.path),
            "rules": [list(rule) for rule in self.plan.rules],
            "unit": self.plan.unit,
            "last": self.plan.last,
            "layers": [asdict(layer) for layer in self.plan.layers],
            "search": None if self.search is None else asdict(self.search),
        }


def read_plan(plan: str | Path, runtime: str | None = None) -> PlanFile:
    """Read a plan.json, or a bundle's plan for `runtime` (its first, if None).

    Raises UsageError for a runtime that the bundle has no plan for.
    """
    path = Path(plan)
    if os.path.isdir(path):
        bundle = read_bundle(path)
        name = runtime or next(iter(bundle.manifest.runtimes))
        if name not in bundle.manifest.runtimes:
            raise UsageError(
                "E-BUNDLE-RUNTIME",
                f"the bundle has no plan for {name}; it has {', '.join(bundle.manifest.runtimes)}",
                path=path,
            )
        file = f"int8/{name}/plan.json"
        bills = bundle.manifest.calibration.get("bills")
        bill = bills.get(name) if isinstance(bills, dict) else None
        plan_read = Plan.parsed(bundle.read(file), bundle.path(file))
        return PlanFile(bundle.path(file), plan_read, SearchRecord.of(bill))
    return PlanFile(path, Plan.read(path))
