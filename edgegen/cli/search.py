"""The fastest plan inside the budget, for each runtime, by measuring its images; on seeds that the verdict never uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibrate.choose import first_good, ladder, questions
from ..core.plan import Plan
from ..core.runtime import Pipeline, Runtime
from ..core.verdict import Verdict
from ..evidence import reference
from ..evidence.compare import FullSide, chance, compare, first_look, pixels_of
from ..evidence.distances import PairedPsnr, squared_error
from ..evidence.features import feature_network
from ..export import STAND_IN, qdq, runtime
from . import output
from .hosted import hosted
from .source import Source

if TYPE_CHECKING:
    from onnx import ModelProto

SEARCH_SEED = 2_000_000
ALONE = 16        # images that the damage of one convolution is measured on
GLANCE = 64       # images whose PSNR says which plans are worth a look
GOOD_DB = 35.0    # of PSNR that a plan should reach: a distance alone can hide other images
PATIENCE = 4      # times the first look that an undecided plan is looked at before a safer one is tried
DOUBT = 0.05      # a plan is taken, or left, when fresh seeds will contradict with no more than this probability


class Search:
    """Plans of one generator; the full-precision side is shared by all runtimes."""

    def __init__(self, source: Source, models: dict[str, ModelProto], even: dict[str, ModelProto], plan: Plan, budget: float,
                 maximum: int, threads: int, weights: Path | None) -> None:
        """maximum: image pairs that the verdict will take at most."""
        self.source, self.even, self.budget, self.maximum, self.threads = source, even, budget, maximum, threads
        self.trail: dict[str, list[dict[str, Any]]] = {}  # runtime -> what was tried, for the manifest
        stored = reference.read(source.reference)
        self.base, self.full = plan, self._pipeline(models, runtime(STAND_IN))
        self.side = FullSide(self.full, feature_network(stored.network, weights, stored.size), stored, SEARCH_SEED)
        self.first = first_look(stored)
        self.most = PATIENCE * self.first

    def plan(self, target: Runtime) -> Plan:
        """The fastest plan that fresh seeds will find within the budget, as far as seen here; the safest when there is none."""
        host = target if target.cannot_run() is None else runtime(STAND_IN)
        self.trail[target.name] = []
        if not target.dialect.int8_ops:  # every plan gives the same files
            return self.base
        plans = ladder(self.base, self.even, self._damage(target, host))
        first, last = self._first_sharp(plans, target, host), len(plans) - 1
        with output.progress(f"searching a plan for {target.name}", questions(first, last) * self.most, "pairs") as advance:
            return plans[first_good(first, last, lambda rung: self._good(plans[rung], target, host, advance))]

    def _good(self, plan: Plan, target: Runtime, host: Runtime, advance: Callable[[int], None]) -> bool:
        """Compare a plan's images with full precision; what was found goes into the trail."""
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        def settled(verdict: Verdict, look_level: float) -> bool:
            return not DOUBT < chance(verdict, look_level, self.maximum) < 1 - DOUBT

        found = compare(self.side, self._quantized(plan, target, host), self.budget, self.first, self.most, progress=progress,
                        settled=settled)
        advance(self.most - done)  # the bound counts what was not needed
        likely, change = chance(found.verdict, found.look_level, self.maximum), found.verdict.change
        self.trail[target.name].append({
            "fp32_convolutions": sum(p == "fp32" for _, p in plan.rules), "likely": likely, "change": change.value,
            "low": change.low, "high": change.high, "psnr_db": found.to_json()["psnr_db"], "pairs": found.images,
            "first_seed": SEARCH_SEED, "executed_by": host.name,
        })
        return likely >= 1 - DOUBT

    def _first_sharp(self, plans: Sequence[Plan], target: Runtime, host: Runtime) -> int:
        """The first plan whose images reach GOOD_DB at a glance, without their features; 0 if none does."""
        with output.progress(f"glancing at plans for {target.name}", len(plans)) as advance:
            for rung, plan in enumerate(plans):
                advance(1)
                made = pixels_of(self._quantized(plan, target, host), self.side.seeds(0, GLANCE))
                if PairedPsnr.of(squared_error(self.side.pixels(0, GLANCE), made)).pooled_db >= GOOD_DB:
                    return rung
        return 0

    def _quantized(self, plan: Plan, target: Runtime, host: Runtime) -> Pipeline:
        return self._pipeline({k: qdq.quantize(m, k, plan, target.dialect) for k, m in self.even.items()}, host)

    def _pipeline(self, models: dict[str, ModelProto], host: Runtime) -> Pipeline:
        return hosted(models, self.source.generator, self.threads, host)

    def _damage(self, target: Runtime, host: Runtime) -> dict[str, dict[str, float]]:
        """graph -> convolution -> mean squared distance that the images' features move with that convolution alone in int8.

        Of features, since that is what is judged: noise that squared pixels hardly show can move them far.
        """
        seeds, exact = self.side.seeds(0, ALONE), self.side.projected(ALONE)
        damage: dict[str, dict[str, float]] = {}
        nodes = [(g, n.name) for g, m in self.even.items() for n in m.graph.node
                 if n.op_type == "Conv" and self.base.precision(g, n.name) == "int8"]
        with output.progress(f"measuring the damage of each convolution on {target.name}", len(nodes)) as advance:
            for graph, node in nodes:
                alone = Plan(((f"{graph}/{node}", "int8"),), self.base.ranges)
                one = self._pipeline({graph: qdq.quantize(self.even[graph], graph, alone, target.dialect)}, host)
                images = Pipeline(self.full.latent, self.full.sampler, {**self.full.call, **one.call})
                moved = self.side.project(pixels_of(images, seeds)) - exact
                damage.setdefault(graph, {})[node] = float(np.square(moved).sum(1).mean())
                advance(1)
        return damage
