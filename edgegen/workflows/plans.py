"""What a precision plan keeps in full precision, and why."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.plan import Plan
from ..errors import UsageError
from .bundles import read_bundle


@dataclass(frozen=True)
class PlanFile:
    """A plan and the file that it was read from."""

    path: Path
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen plan show --json`, but for its frame."""
        return {
            "plan": str(self.path),
            "rules": [list(rule) for rule in self.plan.rules],
            "unit": self.plan.unit,
            "last": self.plan.last,
            "layers": [asdict(layer) for layer in self.plan.layers],
        }


def read_plan(plan: str | Path, runtime: str | None = None) -> PlanFile:
    """Read a plan.json, or the plan of a bundle for `runtime` (its first, if None)."""
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
        return PlanFile(bundle.path(file), Plan.parsed(bundle.read(file), bundle.path(file)))
    return PlanFile(path, Plan.read(path))
