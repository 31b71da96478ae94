"""The fastest plan inside the budget, for each runtime, by measuring time and images; on seeds that
the verdict never uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ...calibrate.choose import (
    Measured,
    Whole,
    cost,
    damage,
    fastest_good,
    ladder,
    multiplications,
    questions,
)
from ...cli import output
from ...cli.doctor import cpu_flags
from ...core.answer_cache import Notes, folder
from ...core.bundle import sha256
from ...core.files import to_json
from ...core.fp32_last_steps import stepped, timed, until
from ...core.plan import Plan
from ...core.runtime import Pipeline, Runtime, Session
from ...core.seeds import SEARCH
from ...core.verdict import Verdict
from ...evidence import bench, reference
from ...evidence.compare import FullSide, Terms, chance, compare, first_look, pixels_of
from ...evidence.distances import PairedPsnr, squared_error
from ...evidence.features import feature_network
from ...export import STAND_IN, qdq, runtime
from ..generators import LoadedGenerator
from .hosted import hosted

if TYPE_CHECKING:
    from onnx import ModelProto

ALONE = 16  # images that the damage of one convolution is measured on
GLANCE = 64  # images whose PSNR says which plans are worth a look
# times the first look, or half of the verdict's images, that an undecided plan is looked at before
# a safer one
PATIENCE = 4
# a plan is taken when fresh seeds will contradict with no more than this probability
DOUBT = 0.1
HOPE = 0.3  # and is left when the probability that they will agree is no more than this
TIMED = 8  # images in a batch that is timed
SAFER = 0.5  # of the damage of a plan that its verdict contradicts, what the next one may do
# of the sampler's steps, from its end, that a plan may leave to FP32 where nobody says; half of
# them at most
MOST_LAST = 1
# share of the time that such a plan has to save, since both weights are then on the device
BURDEN = 0.1
ROUNDS = 16  # each beside one with everything in int8; the median counts
# ms that a convolution saves where nothing can be told: it stays int8 unless it damages
LEAST = 0.01
MEASURED, COUNTED = (
    "ms of CPU time for a batch of 8, from noise to image",
    "10^6 multiplications an image",
)


@dataclass
class Found:
    """A runtime's ladder and the rung that ships."""

    plans: Sequence[Plan]
    rung: int

    @property
    def plan(self) -> Plan:
        return self.plans[self.rung]

    def safer(self) -> bool:
        """The first plan behind that damages half as much, or the safest; whether there was one."""
        before, behind = self.rung, range(self.rung + 1, len(self.plans))
        most = SAFER * damage(self.plan)
        self.rung = next(
            (rung for rung in behind if damage(self.plans[rung]) <= most), len(self.plans) - 1
        )
        return self.rung > before


@dataclass(frozen=True)
class _Weighed:
    """Convolutions that may be in int8 with their multiplications, what each saves, and what whole
    graphs cost.

    lasts: how many of the last steps may be in FP32.
    """

    alone: Mapping[tuple[str, str], int]
    saved: Sequence[float]
    unit: str
    lasts: range
    whole: Mapping[str, Whole]

    def cost(self, plan: Plan) -> float:
        """Of a trajectory, with what FP32 weights beside INT8 ones are a burden."""
        return cost(plan, self.whole) * (1 + BURDEN if plan.last else 1)


class Search:
    """Plans of one generator; the full-precision side is shared by all runtimes."""

    def __init__(
        self,
        source: LoadedGenerator,
        models: dict[str, ModelProto],
        even: dict[str, ModelProto],
        plan: Plan,
        terms: Terms,
        threads: int,
        weights: Path | None,
        most_last: int,
    ) -> None:
        self.source, self.models, self.even, self.terms, self.threads = (
            source,
            models,
            even,
            terms,
            threads,
        )
        # runtime -> what was tried, for the manifest
        self.trail: dict[str, list[dict[str, Any]]] = {}
        stored = reference.read(source.reference)
        self.base, self.full = plan, self._pipeline(models, runtime(STAND_IN))
        self.side = FullSide(
            self.full, feature_network(stored.network, weights, stored.size), stored, SEARCH.first
        )
        self.first = first_look(stored)
        self.recorded = bench.record(self.full, range(TIMED))
        steps = min(map(len, timed(self.recorded).values()), default=1)
        self.lasts = range(min(most_last, steps // 2) + 1)
        # who pays for a sharper verdict is spared safer plans
        self.most = max(PATIENCE * self.first, terms.maximum // 2)
        self._asked = [
            __version__,
            terms.to_json(),
            threads,
            sha256(source.reference),
            cpu_flags(),
            [ALONE, GLANCE, PATIENCE, DOUBT, HOPE, TIMED, ROUNDS, BURDEN, *self.lasts],
        ]

    def plan(self, target: Runtime) -> Found:
        """The fastest plan that fresh seeds will find within the budget, as far as seen here; the
        safest when there is none.
        """
        host = target if target.cannot_run() is None else runtime(STAND_IN)
        notes = Notes(folder("search") / f"{self._key(target, host)}.jsonl")
        self.trail[target.name] = []
        if not target.dialect.int8_ops:  # every plan gives the same files
            return Found((self.base,), 0)
        weighed = self._weighed(target, host, notes)
        ladders = [self._ladder(weighed, last, target, host, notes) for last in weighed.lasts]
        safest = ladders[0][-1]  # taken unseen where nothing faster is good
        faster = [
            [p for p in plans if p is not safest and weighed.cost(p) <= weighed.cost(safest)]
            for plans in ladders
        ]
        sharp = [self._sharp(plans, target, host, notes) for plans in faster]
        most = sum(questions(len(plans)) for plans in sharp)
        with output.progress(
            f"searching a plan for {target.name}", most * self.most, "pairs"
        ) as advance:
            found = fastest_good(
                [[weighed.cost(plan) for plan in plans] for plans in sharp],
                lambda place, rung: self._good(sharp[place][rung], target, host, notes, advance),
                most,
            )
        if found is None:
            return Found(ladders[0], len(ladders[0]) - 1)
        place, rung = found
        return Found(ladders[place], ladders[place].index(sharp[place][rung]))

    def _key(self, target: Runtime, host: Runtime) -> str:
        """Of everything that the answers depend on; the fastest files stand for models, ranges and
        dialect.
        """
        key = hashlib.sha256(
            to_json([self._asked, target.name, host.name, host.version()]) + self.base.to_bytes()
        )
        for graph in sorted(self.even):
            key.update(
                qdq.quantize(self.even[graph], graph, self.base, target.dialect).SerializeToString(
                    deterministic=True
                )
            )
        return key.hexdigest()[:32]

    def _weighed(self, target: Runtime, host: Runtime, notes: Notes) -> _Weighed:
        """What can be in int8, and what that saves on the target: by time where it runs, else by
        multiplications.
        """
        alone = {
            (graph, node): count
            for graph, model in self.even.items()
            for node, count in multiplications(model).items()
            if self.base.precision(graph, node) == "int8"
        }
        by_share = {graph: Whole(0.0, 1.0, 1) for graph in self.even}
        if target is not host:
            return _Weighed(
                alone, [count / 1e6 for count in alone.values()], COUNTED, range(1), by_share
            )
        saved = notes.recall("saved", lambda: self._saved(target, list(alone)))
        if target.executable or len(self.lasts) == 1:  # an engine's FP32 would be another engine
            return _Weighed(alone, saved, MEASURED, range(1), by_share)
        several = {
            graph: len(self.recorded[graph]) for graph in until(self.recorded, self.lasts[-1])
        }
        whole = {
            graph: Whole(int8, fp32, several.get(graph, 1))
            for graph, (int8, fp32) in notes.recall("whole", lambda: self._whole(target)).items()
        }
        return _Weighed(alone, saved, MEASURED, self.lasts, whole)

    def _ladder(
        self, weighed: _Weighed, last: int, target: Runtime, host: Runtime, notes: Notes
    ) -> tuple[Plan, ...]:
        """From the fastest to the safest, all with that many last steps in FP32."""
        measured = self._measured(weighed.alone, weighed.saved, last, target, host, notes)
        return ladder(replace(self.base, last=last), measured, weighed.unit)

    def _measured(
        self,
        alone: Mapping[tuple[str, str], int],
        saved: Sequence[float],
        last: int,
        target: Runtime,
        host: Runtime,
        notes: Notes,
    ) -> list[Measured]:
        """What each convolution costs and saves alone, with that many last steps in FP32."""
        hurt: dict[tuple[str, str], float] = {}
        label = f"measuring the damage of each convolution on {target.name}" + (
            f", last {last} in FP32" if last else ""
        )
        with output.progress(label, len(alone)) as advance:
            for graph, node in alone:
                hurt[graph, node] = notes.recall(
                    f"damage {last} {graph}/{node}",
                    lambda g=graph, n=node: self._damage(g, n, last, target, host),  # type: ignore[misc]
                )
                advance(1)
        return [
            Measured(graph, node, hurt[graph, node], gain, count)
            for ((graph, node), count), gain in zip(alone.items(), saved, strict=True)
        ]

    def _damage(self, graph: str, node: str, last: int, target: Runtime, host: Runtime) -> float:
        """Mean squared distance that the images' features move with that convolution alone in int8.

        Of features, since that is what is judged: noise that squared pixels hardly show can move
        them far.
        """
        seeds, exact = self.side.seeds(0, ALONE), self.side.projected(ALONE)
        alone = Plan(((f"{graph}/{node}", "int8"),), self.base.ranges)
        one = self._pipeline(
            {graph: qdq.quantize(self.even[graph], graph, alone, target.dialect)}, host
        )
        images = self._with_last({**self.full.call, **one.call}, last)
        moved = self.side.project(pixels_of(images, seeds)) - exact
        return float(np.square(moved).sum(1).mean())

    def _with_last(self, call: Mapping[str, Session], last: int) -> Pipeline:
        """A pipeline of these sessions whose last steps are in FP32."""
        return Pipeline(
            self.full.latent,
            self.full.sampler,
            stepped(call, self.full.call, until(self.recorded, last)),
        )

    def _whole(self, target: Runtime) -> dict[str, tuple[float, float]]:
        """Milliseconds of each graph's calls of a trajectory: everything in int8, and FP32."""
        int8 = {k: qdq.quantize(m, k, self.base, target.dialect) for k, m in self.even.items()}
        pair = {
            "int8": self._pipeline(int8, target, threads=1),
            "fp32": self._pipeline(self.models, target, threads=1),
        }
        found = {}
        for graph, calls in self.recorded.items():
            times = bench.latencies(pair, {graph: bench.middle(self.recorded)[graph]}, 1, ROUNDS)
            found[graph] = (len(calls) * times["int8"].cpu_ms, len(calls) * times["fp32"].cpu_ms)
        return found

    def _saved(self, target: Runtime, found: list[tuple[str, str]]) -> list[float]:
        """Milliseconds that each convolution in FP32 adds to everything in int8, over a whole
        trajectory.

        Below 0 only where it is FP32 that is faster beyond doubt; LEAST where it cannot be told.
        """
        saved: list[float] = []
        with output.progress(
            f"timing each convolution on {target.name}", len(self.even)
        ) as advance:
            for graph, model in self.even.items():
                plans = [
                    self.base,
                    *(
                        Plan(((f"{g}/{n}", "fp32"), *self.base.rules), self.base.ranges)
                        for g, n in found
                        if g == graph
                    ),
                ]
                if len(plans) == 1:
                    continue
                timed = {
                    str(k): self._pipeline(
                        {graph: qdq.quantize(model, graph, plan, target.dialect)}, target, threads=1
                    )
                    for k, plan in enumerate(plans)
                }
                costs = bench.slower(
                    timed.pop("0"), timed, {graph: bench.middle(self.recorded)[graph]}, ROUNDS
                )
                for cost in costs.values():
                    middle, high = (
                        round(float(q) * len(self.recorded[graph]), 3)
                        for q in np.quantile(cost, (0.5, 0.75))
                    )
                    saved.append(max(middle, LEAST) if high > 0 else middle)
                advance(1)
        return saved

    def _sharp(
        self, plans: Sequence[Plan], target: Runtime, host: Runtime, notes: Notes
    ) -> Sequence[Plan]:
        """Those from the first on whose images reach the PSNR asked for at a glance, without their
        features.
        """
        with output.progress(f"glancing at plans for {target.name}", len(plans)) as advance:
            for rung, plan in enumerate(plans):
                advance(1)
                if (
                    notes.recall(
                        f"psnr {_digest(plan)}",
                        lambda p=plan: self._psnr(p, target, host),  # type: ignore[misc]
                    )
                    >= self.terms.psnr
                ):
                    return plans[rung:]
        return ()

    def _psnr(self, plan: Plan, target: Runtime, host: Runtime) -> float:
        made = pixels_of(self._quantized(plan, target, host), self.side.seeds(0, GLANCE))
        # equal images: infinite
        return min(PairedPsnr.of(squared_error(self.side.pixels(0, GLANCE), made)).pooled_db, 999.0)

    def _good(
        self,
        plan: Plan,
        target: Runtime,
        host: Runtime,
        notes: Notes,
        advance: Callable[[int], None],
    ) -> bool:
        """Compare a plan's images with full precision; what was found goes into the trail."""
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        found = notes.recall(
            f"look {_digest(plan)}", lambda: self._look(plan, target, host, progress)
        )
        advance(self.most - done)  # the bound counts what was not needed
        self.trail[target.name].append(found)
        good = found["likely"] >= 1 - DOUBT and found["psnr_db"] >= self.terms.psnr
        last = f", {output.steps_in_fp32(plan.last)}" if plan.last else ""
        output.note(
            f"{target.name}: {found['fp32_convolutions']} convolutions in FP32{last}, change "
            f"{found['change']:+.2%}, "
            f"{found['psnr_db']:.1f} dB after {found['pairs']} pairs: "
            f"{'likely' if good else 'not likely'} within"
        )
        return good

    def _look(
        self, plan: Plan, target: Runtime, host: Runtime, progress: Callable[[int, int], None]
    ) -> dict[str, Any]:
        level, maximum = self.terms.trial(0).level, self.terms.maximum

        def settled(verdict: Verdict, look_level: float) -> bool:
            return not HOPE < chance(verdict, look_level, maximum, level) < 1 - DOUBT

        found = compare(
            self.side,
            self._quantized(plan, target, host),
            self.terms.budget,
            self.first,
            self.most,
            level,
            progress,
            settled,
        )
        change = found.verdict.change
        return {
            "fp32_convolutions": sum(p == "fp32" for _, p in plan.rules),
            "fp32_last_steps": plan.last,
            "likely": chance(found.verdict, found.look_level, maximum, level),
            "change": change.value,
            "low": change.low,
            "high": change.high,
            "psnr_db": min(found.psnr_db, 999.0),
            "pairs": found.images,
            "first_seed": SEARCH.first,
            "executed_by": host.name,
        }

    def _quantized(self, plan: Plan, target: Runtime, host: Runtime) -> Pipeline:
        made = self._pipeline(
            {k: qdq.quantize(m, k, plan, target.dialect) for k, m in self.even.items()}, host
        )
        return self._with_last(made.call, plan.last)

    def _pipeline(self, models: dict[str, ModelProto], host: Runtime, threads: int = 0) -> Pipeline:
        return hosted(models, self.source.generator, threads or self.threads, host)


def _digest(plan: Plan) -> str:
    """What tells it from other plans of the same search."""
    return hashlib.sha256(to_json([plan.rules, plan.last])).hexdigest()[:16]
