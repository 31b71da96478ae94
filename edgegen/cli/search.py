"""The fastest plan inside the budget, for each runtime, by measuring its images; on seeds that the verdict never uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibrate.choose import ladder
from ..core.plan import Plan
from ..core.runtime import Dialect, Pipeline, Runtime
from ..evidence import reference
from ..evidence.bench import record
from ..evidence.compare import FullSide, compare, first_look
from ..evidence.features import feature_network
from ..export import STAND_IN, qdq, runtime
from . import output
from .hosted import hosted
from .source import Source

if TYPE_CHECKING:
    from onnx import ModelProto

SEARCH_SEED = 2_000_000
PATIENCE = 4  # times the first look that an undecided plan is looked at before a safer one is tried
PLAIN = Dialect(activation="uint8", symmetric=False)  # in which the damage of one convolution is measured


class Search:
    """Plans of one generator; the full-precision side is shared by all runtimes."""

    def __init__(self, source: Source, models: dict[str, ModelProto], even: dict[str, ModelProto], plan: Plan, budget: float,
                 threads: int, weights: Path | None) -> None:
        self.source, self.even, self.budget, self.threads = source, even, budget, threads
        self.trail: dict[str, list[dict[str, Any]]] = {}  # runtime -> what was tried, for the manifest
        stored = reference.read(source.reference)
        full = self._pipeline(models, runtime(STAND_IN))
        self.side = FullSide(full, feature_network(stored.network, weights, stored.size), stored, SEARCH_SEED)
        self.first = first_look(stored)
        self.plans = ladder(plan, even, self._damage(plan, full))

    def plan(self, target: Runtime) -> Plan:
        """The first rung whose change is within the budget; the safest when none is, and the verdict then says so."""
        host = target if target.cannot_run() is None else runtime(STAND_IN)
        tried = self.trail.setdefault(target.name, [])
        with output.progress(f"searching a plan for {target.name}", len(self.plans)) as advance:
            for plan in self.plans:
                files = {name: qdq.quantize(model, name, plan, target.dialect) for name, model in self.even.items()}
                found = compare(self.side, self._pipeline(files, host), self.budget, self.first, PATIENCE * self.first)
                change = found.verdict.change
                kept = sum(p == "fp32" for _, p in plan.rules)
                tried.append({"fp32_convolutions": kept, "change": change.value, "low": change.low, "high": change.high,
                              "pairs": found.images, "first_seed": SEARCH_SEED, "executed_by": host.name})
                advance(1)
                if found.verdict.state == "within":
                    break
        return plan

    def _pipeline(self, models: dict[str, ModelProto], host: Runtime) -> Pipeline:
        return hosted(models, self.source.generator, self.threads, host)

    def _damage(self, plan: Plan, full: Pipeline) -> dict[str, dict[str, float]]:
        """graph -> convolution -> squared error of the graph's output, that convolution alone int8, over the whole trajectory."""
        recorded = record(full, range(8))
        damage: dict[str, dict[str, float]] = {}
        nodes = [(g, n.name) for g, m in self.even.items() for n in m.graph.node
                 if n.op_type == "Conv" and plan.precision(g, n.name) == "int8"]
        with output.progress("measuring the damage of each convolution", len(nodes)) as advance:
            for graph, node in nodes:
                alone = Plan(((f"{graph}/{node}", "int8"),), plan.ranges)
                one = self._pipeline({graph: qdq.quantize(self.even[graph], graph, alone, PLAIN)}, runtime(STAND_IN))
                errors = [np.square(one.call[graph](**i) - full.call[graph](**i)).mean() for i in recorded[graph]]
                damage.setdefault(graph, {})[node] = float(np.mean(errors))
                advance(1)
        return damage
