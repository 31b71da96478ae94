"""The fastest plan inside the budget, for each runtime, by measuring time and images; on seeds that
the verdict never uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from ...core import weights
from ...core.answer_cache import Notes, folder
from ...core.bundle import sha256
from ...core.cpu import cpu_flags
from ...core.files import to_json
from ...core.fp32_last_steps import fp32_below, steps_in_fp32
from ...core.plan import Plan
from ...core.runtime import Runtime
from ...core.side_by_side import over_workers
from ...export import executing, qdq
from ...version import __version__
from ..context import Context
from .judges import judge_of
from .measurements import Convolution, FullPrecision, Measurements, SearchSettings, SearchSubject

SAFER = 0.5  # of the damage of a plan that its verdict contradicts, what the next one may do
MEASURED, COUNTED = (
    "ms of CPU time for a batch of 8, from noise to image",
    "10^6 multiplications an image",
)


@dataclass
class PlanLadder:
    """A runtime's plans, from the fastest to the safest, and the rung that ships."""

    plans: Sequence[Plan]
    rung: int

    @property
    def plan(self) -> Plan:
        return self.plans[self.rung]

    def safer(self) -> bool:
        """Step to the first plan behind that damages half as much, or to the safest; whether there
        was one.
        """
        before, behind = self.rung, range(self.rung + 1, len(self.plans))
        most = SAFER * damage(self.plan)
        self.rung = next(
            (rung for rung in behind if damage(self.plans[rung]) <= most), len(self.plans) - 1
        )
        return self.rung > before


@dataclass(frozen=True)
class _Costs:
    """Convolutions that may be in int8 with their multiplications, what each saves, and what whole
    graphs cost. last_steps: how many of the last steps may be in FP32.
    """

    multiplications: Mapping[Convolution, int]
    saved: Sequence[float]
    unit: str
    last_steps: range
    graphs: Mapping[str, Whole]
    burden: float

    def of(self, plan: Plan) -> float:
        """Of a trajectory, with what FP32 weights beside INT8 ones are a burden."""
        return cost(plan, self.graphs) * (1 + self.burden if plan.last else 1)


class Search:
    """Plans of one generator; the full-precision side is shared by all runtimes.

    Each answer is noted as soon as it is known, so that a search that was stopped goes on and one
    that is repeated asks nothing. trail: runtime -> the looks that were taken, for the manifest.
    """

    def __init__(self, subject: SearchSubject, settings: SearchSettings, context: Context) -> None:
        self.subject, self.settings, self.context = subject, settings, context
        self.full = FullPrecision(subject, settings, context)
        self.trail: dict[str, list[dict[str, Any]]] = {}

    def measurements(self, target: Runtime) -> Measurements:
        """By the runtime itself where it runs here, else by its stand-in."""
        return Measurements(self.full, target, executing(target))

    def plan(self, target: Runtime) -> PlanLadder:
        """The fastest plan that fresh seeds will find within the budget, as far as seen here; the
        safest when there is none.
        """
        if not target.dialect.int8_ops:  # every plan gives the same files
            self.trail[target.name] = []
            return PlanLadder((self.subject.base,), 0)
        return _RuntimeSearch(self, target).run()

    def _judged_by(self) -> str | list[str | int]:
        """The reference, or the network where there is none."""
        if self.settings.terms.is_distance_counted:
            return sha256(self.subject.source.reference)
        network = judge_of(None, self.context.feature_weights)
        return [network.name, network.sha256, network.size]

    def key(self, target: Runtime, host: Runtime) -> str:
        """Of everything that the answers depend on; the fastest files stand for models, ranges and
        dialect.
        """
        asked = {
            "edgegen": __version__,
            "settings": self.settings.to_json(),
            "reference": self._judged_by(),
            "machine": cpu_flags(),
            "runtime": target.name,
            "host": [host.name, type(host).__name__, host.version()],
        }
        key = hashlib.sha256(to_json(asked) + self.subject.base.to_bytes())
        for graph, model in sorted(self.subject.calibrated.items()):
            file = qdq.quantize(model, graph, self.subject.base, target.dialect)
            key.update(weights.digest(file))
        return key.hexdigest()[:32]


class _RuntimeSearch:
    """The search for one runtime: what it asks, and the notes that answer."""

    def __init__(self, search: Search, target: Runtime) -> None:
        self.settings, self.full = search.settings, search.full
        self.base, self.calibrated = search.subject.base, search.subject.calibrated
        self.listen, self.target = search.context.listen, target
        self.measure = search.measurements(target)
        self.trail = search.trail[target.name] = []
        key = search.key(target, self.measure.host)
        self.notes = Notes(folder("search") / f"{key}.jsonl")

    def run(self) -> PlanLadder:
        costs = self._costs()
        ladders = self._ladders(costs)
        safest = ladders[0][-1]  # taken unseen where nothing faster is good
        faster = [
            [p for p in plans if p is not safest and costs.of(p) <= costs.of(safest)]
            for plans in ladders
        ]
        sharp = [self._sharp(plans) for plans in faster]
        most = sum(questions(len(plans)) for plans in sharp)
        label = f"searching a plan for {self.target.name}"
        with self.listen.progress(label, most * self.full.most_pairs, "pairs") as advance:
            best = fastest_good(
                [[costs.of(plan) for plan in plans] for plans in sharp],
                lambda place, rung: self._good(sharp[place][rung], advance),
                most,
            )
        if best is None:
            return PlanLadder(ladders[0], len(ladders[0]) - 1)
        place, rung = best
        return PlanLadder(ladders[place], ladders[place].index(sharp[place][rung]))

    def _costs(self) -> _Costs:
        """What can be in int8, and what that saves on the target: by time where it runs, else by
        multiplications.
        """
        counts = {}
        for graph, model in self.calibrated.items():
            of_graph = multiplications(model)
            for node in qdq.int8_nodes(model, graph, self.base, self.target.dialect):
                counts[graph, node.name] = of_graph[node.name]
        by_share = {graph: Whole(0.0, 1.0, 1) for graph in self.calibrated}
        burden = self.settings.burden
        if self.target is not self.measure.host:
            millions = [count / 1e6 for count in counts.values()]
            return _Costs(counts, millions, COUNTED, range(1), by_share, burden)
        saved = self.notes.recall("saved", lambda: self._time_saved(list(counts)))
        last_steps = self.full.last_steps
        # an engine's FP32 would be another engine
        if self.target.executable or len(last_steps) == 1:
            return _Costs(counts, saved, MEASURED, range(1), by_share, burden)
        recorded = self.full.recorded
        calls = {graph: len(recorded[graph]) for graph in fp32_below(recorded, last_steps[-1])}
        graphs = {
            graph: Whole(int8, fp32, calls.get(graph, 1))
            for graph, (int8, fp32) in self.notes.recall("whole", self.measure.graph_times).items()
        }
        return _Costs(counts, saved, MEASURED, last_steps, graphs, burden)

    def _time_saved(self, convolutions: Sequence[Convolution]) -> list[float]:
        label = f"timing each convolution on {self.target.name}"
        with self.listen.progress(label, len(self.calibrated)) as advance:
            return self.measure.time_saved(convolutions, advance)

    def _ladders(self, costs: _Costs) -> list[tuple[Plan, ...]]:
        """From the fastest to the safest, one ladder for each number of last steps in FP32."""
        label = f"measuring the damage of each convolution on {self.target.name}"
        measured: list[list[Measured]] = [[] for _ in costs.last_steps]
        with self.listen.progress(label, len(costs.multiplications)) as advance:
            for (convolution, count), saved, damages in zip(
                costs.multiplications.items(),
                costs.saved,
                self._damages(list(costs.multiplications), costs.last_steps),
                strict=True,
            ):
                for rungs, hurt in zip(measured, damages, strict=True):
                    rungs.append(Measured(*convolution, hurt, saved, count))
                advance(1)
        return [
            ladder(replace(self.base, last=last), rungs, costs.unit)
            for last, rungs in zip(costs.last_steps, measured, strict=True)
        ]

    def _damages(
        self, convolutions: Sequence[Convolution], last_steps: Sequence[int]
    ) -> Iterator[list[float]]:
        """Of each convolution alone, by number of last steps in FP32; several at once."""

        def asked(convolution: Convolution) -> str:
            return f"damages {list(last_steps)} {'/'.join(convolution)}"

        def answer(convolution: Convolution) -> list[float]:
            known = self.notes.recall(
                asked(convolution), lambda: self.measure.damages(convolution, last_steps)
            )
            return [float(hurt) for hurt in known]

        if not all(self.notes.knows(asked(convolution)) for convolution in convolutions):
            self.full.prepare()
        return over_workers(answer, convolutions, self.full.at_once)

    def _sharp(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        """Those from the first on whose images reach the PSNR asked for at a glance."""
        label = f"glancing at plans for {self.target.name}"
        with self.listen.progress(label, len(plans)) as advance:
            for rung, plan in enumerate(plans):
                advance(1)
                if self._psnr(plan) >= self.settings.terms.psnr:
                    return plans[rung:]
        return ()

    def _psnr(self, plan: Plan) -> float:
        question = f"psnr {_digest(plan)}"
        return float(self.notes.recall(question, lambda: self.measure.psnr(plan)))

    def _good(self, plan: Plan, advance: Callable[[int], None]) -> bool:
        """Compare a plan's images with full precision; what was seen goes into the trail."""
        done = 0

        def progress(now: int, _: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        look = self.notes.recall(f"look {_digest(plan)}", lambda: self.measure.look(plan, progress))
        advance(self.full.most_pairs - done)  # the bound counts what was not needed
        self.trail.append(look)
        good = bool(
            look["likely"] >= 1 - self.settings.doubt
            and look["psnr_db"] >= self.settings.terms.psnr
        )
        last = f", {steps_in_fp32(plan.last)}" if plan.last else ""
        change = "" if look["change"] is None else f"change {look['change']:+.2%}, "
        self.listen.note(
            f"{self.target.name}: {look['fp32_convolutions']} convolutions in FP32{last}, {change}"
            f"{look['psnr_db']:.1f} dB, {look['ruined']} ruined after "
            f"{look['pairs']} pairs: "
            f"{'likely' if good else 'not likely'} within"
        )
        return good


def _digest(plan: Plan) -> str:
    """What tells it from other plans of the same search."""
    return hashlib.sha256(to_json([plan.rules, plan.last])).hexdigest()[:16]
