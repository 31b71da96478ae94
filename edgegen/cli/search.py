"""The fastest plan inside the budget, for each runtime, by measuring time and images; on seeds that the verdict never uses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..calibrate.choose import Measured, first_good, ladder, multiplications, questions
from ..core.bundle import sha256
from ..core.files import to_json
from ..core.notes import Notes, folder
from ..core.plan import Plan
from ..core.runtime import Pipeline, Runtime
from ..core.verdict import Verdict
from ..evidence import bench, reference
from ..evidence.compare import FullSide, Terms, chance, compare, first_look, pixels_of
from ..evidence.distances import PairedPsnr, squared_error
from ..evidence.features import feature_network
from ..export import STAND_IN, qdq, runtime
from . import output
from .doctor import cpu_flags
from .hosted import hosted
from .source import Source

if TYPE_CHECKING:
    from onnx import ModelProto

SEARCH_SEED = 2_000_000
ALONE = 16        # images that the damage of one convolution is measured on
GLANCE = 64       # images whose PSNR says which plans are worth a look
PATIENCE = 4      # times the first look, or half of the verdict's images, that an undecided plan is looked at before a safer one
DOUBT = 0.1       # a plan is taken, or left, when fresh seeds will contradict with no more than this probability
TIMED = 8         # images in a batch that is timed
ROUNDS = 16       # each beside one with everything in int8; the median counts
LEAST = 0.01      # ms that a convolution saves where nothing can be told: it stays int8 unless it damages
MEASURED, COUNTED = "ms of CPU time for a batch of 8, from noise to image", "10^6 multiplications an image"


@dataclass
class Found:
    """A runtime's ladder and the rung that ships."""

    plans: Sequence[Plan]
    rung: int

    @property
    def plan(self) -> Plan:
        return self.plans[self.rung]

    def safer(self) -> bool:
        """Half of the way to the safest plan; whether there was one."""
        before, self.rung = self.rung, (self.rung + len(self.plans)) // 2
        return self.rung > before


class Search:
    """Plans of one generator; the full-precision side is shared by all runtimes."""

    def __init__(self, source: Source, models: dict[str, ModelProto], even: dict[str, ModelProto], plan: Plan, terms: Terms,
                 threads: int, weights: Path | None) -> None:
        self.source, self.even, self.terms, self.threads = source, even, terms, threads
        self.trail: dict[str, list[dict[str, Any]]] = {}  # runtime -> what was tried, for the manifest
        stored = reference.read(source.reference)
        self.base, self.full = plan, self._pipeline(models, runtime(STAND_IN))
        self.side = FullSide(self.full, feature_network(stored.network, weights, stored.size), stored, SEARCH_SEED)
        self.first = first_look(stored)
        self.most = max(PATIENCE * self.first, terms.maximum // 2)  # who pays for a sharper verdict is spared safer plans
        self._asked = [__version__, terms.to_json(), threads, sha256(source.reference), cpu_flags(),
                       [ALONE, GLANCE, PATIENCE, DOUBT, TIMED, ROUNDS]]

    def plan(self, target: Runtime) -> Found:
        """The fastest plan that fresh seeds will find within the budget, as far as seen here; the safest when there is none."""
        host = target if target.cannot_run() is None else runtime(STAND_IN)
        notes = Notes(folder("search") / f"{self._key(target, host)}.jsonl")
        self.trail[target.name] = []
        if not target.dialect.int8_ops:  # every plan gives the same files
            return Found((self.base,), 0)
        plans = ladder(self.base, *self._measured(target, host, notes))
        first, last = self._first_sharp(plans, target, host, notes), len(plans) - 1
        most = questions(first, last)
        with output.progress(f"searching a plan for {target.name}", most * self.most, "pairs") as advance:
            rung = first_good(first, last, lambda k: self._good(plans[k], k, target, host, notes, advance))
        return Found(plans, rung)

    def _key(self, target: Runtime, host: Runtime) -> str:
        """Of everything that the answers depend on; the fastest files stand for models, ranges and dialect."""
        key = hashlib.sha256(to_json([self._asked, target.name, host.name, host.version()]) + self.base.to_bytes())
        for graph in sorted(self.even):
            key.update(qdq.quantize(self.even[graph], graph, self.base, target.dialect).SerializeToString(deterministic=True))
        return key.hexdigest()[:32]

    def _measured(self, target: Runtime, host: Runtime, notes: Notes) -> tuple[list[Measured], str]:
        """What each convolution costs and saves alone, and the unit of what it saves."""
        alone = {(graph, node): count for graph, model in self.even.items() for node, count in multiplications(model).items()
                 if self.base.precision(graph, node) == "int8"}
        damage: dict[tuple[str, str], float] = {}
        with output.progress(f"measuring the damage of each convolution on {target.name}", len(alone)) as advance:
            for graph, node in alone:
                damage[graph, node] = notes.recall(f"damage {graph}/{node}", lambda g=graph, n=node:  # type: ignore[misc]
                                                   self._damage(g, n, target, host))
                advance(1)
        if target is host:
            saved = notes.recall("saved", lambda: self._saved(target, list(alone)))
            unit = MEASURED
        else:  # no time can be measured where it does not run
            saved, unit = [count / 1e6 for count in alone.values()], COUNTED
        return [Measured(graph, node, damage[graph, node], gain, count)
                for ((graph, node), count), gain in zip(alone.items(), saved, strict=True)], unit

    def _damage(self, graph: str, node: str, target: Runtime, host: Runtime) -> float:
        """Mean squared distance that the images' features move with that convolution alone in int8.

        Of features, since that is what is judged: noise that squared pixels hardly show can move them far.
        """
        seeds, exact = self.side.seeds(0, ALONE), self.side.projected(ALONE)
        alone = Plan(((f"{graph}/{node}", "int8"),), self.base.ranges)
        one = self._pipeline({graph: qdq.quantize(self.even[graph], graph, alone, target.dialect)}, host)
        images = Pipeline(self.full.latent, self.full.sampler, {**self.full.call, **one.call})
        moved = self.side.project(pixels_of(images, seeds)) - exact
        return float(np.square(moved).sum(1).mean())

    def _saved(self, target: Runtime, found: list[tuple[str, str]]) -> list[float]:
        """Milliseconds that each convolution in FP32 adds to everything in int8, over a whole trajectory.

        Below 0 only where it is FP32 that is faster beyond doubt; LEAST where it cannot be told.
        """
        recorded = bench.record(self.full, range(TIMED))
        saved: list[float] = []
        with output.progress(f"timing each convolution on {target.name}", len(self.even)) as advance:
            for graph, model in self.even.items():
                plans = [self.base, *(Plan(((f"{g}/{n}", "fp32"), *self.base.rules), self.base.ranges)
                                      for g, n in found if g == graph)]
                if len(plans) == 1:
                    continue
                timed = {str(k): self._pipeline({graph: qdq.quantize(model, graph, plan, target.dialect)}, target, threads=1)
                         for k, plan in enumerate(plans)}
                costs = bench.slower(timed.pop("0"), timed, {graph: bench.middle(recorded)[graph]}, ROUNDS)
                for cost in costs.values():
                    middle, high = (round(float(q) * len(recorded[graph]), 3) for q in np.quantile(cost, (0.5, 0.75)))
                    saved.append(max(middle, LEAST) if high > 0 else middle)
                advance(1)
        return saved

    def _first_sharp(self, plans: Sequence[Plan], target: Runtime, host: Runtime, notes: Notes) -> int:
        """The first plan whose images reach the PSNR asked for at a glance, without their features; 0 if none does."""
        with output.progress(f"glancing at plans for {target.name}", len(plans)) as advance:
            for rung, plan in enumerate(plans):
                advance(1)
                if notes.recall(f"psnr {rung}", lambda p=plan: self._psnr(p, target, host)) >= self.terms.psnr:  # type: ignore[misc]
                    return rung
        return 0

    def _psnr(self, plan: Plan, target: Runtime, host: Runtime) -> float:
        made = pixels_of(self._quantized(plan, target, host), self.side.seeds(0, GLANCE))
        return min(PairedPsnr.of(squared_error(self.side.pixels(0, GLANCE), made)).pooled_db, 999.0)  # equal images: infinite

    def _good(self, plan: Plan, rung: int, target: Runtime, host: Runtime, notes: Notes, advance: Callable[[int], None]) -> bool:
        """Compare a plan's images with full precision; what was found goes into the trail."""
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        found = notes.recall(f"look {rung}", lambda: self._look(plan, target, host, progress))
        advance(self.most - done)  # the bound counts what was not needed
        self.trail[target.name].append(found)
        good = found["likely"] >= 1 - DOUBT and found["psnr_db"] >= self.terms.psnr
        output.note(f"{target.name}: {found['fp32_convolutions']} convolutions in FP32, change {found['change']:+.2%}, "
                    f"{found['psnr_db']:.1f} dB after {found['pairs']} pairs: {'likely' if good else 'not likely'} within")
        return good

    def _look(self, plan: Plan, target: Runtime, host: Runtime, progress: Callable[[int, int], None]) -> dict[str, Any]:
        level, maximum = self.terms.trial(0).level, self.terms.maximum

        def settled(verdict: Verdict, look_level: float) -> bool:
            return not DOUBT < chance(verdict, look_level, maximum, level) < 1 - DOUBT

        found = compare(self.side, self._quantized(plan, target, host), self.terms.budget, self.first, self.most, level,
                        progress, settled)
        change = found.verdict.change
        return {
            "fp32_convolutions": sum(p == "fp32" for _, p in plan.rules),
            "likely": chance(found.verdict, found.look_level, maximum, level), "change": change.value, "low": change.low,
            "high": change.high, "psnr_db": min(found.psnr_db, 999.0), "pairs": found.images, "first_seed": SEARCH_SEED,
            "executed_by": host.name,
        }

    def _quantized(self, plan: Plan, target: Runtime, host: Runtime) -> Pipeline:
        return self._pipeline({k: qdq.quantize(m, k, plan, target.dialect) for k, m in self.even.items()}, host)

    def _pipeline(self, models: dict[str, ModelProto], host: Runtime, threads: int = 0) -> Pipeline:
        return hosted(models, self.source.generator, threads or self.threads, host)
