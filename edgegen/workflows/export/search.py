"""Search the fastest plan inside the budget for each runtime, by measuring time and images on seeds
that the verdict never uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...calibrate.choose import Measured, Whole, cost, damage, ladder, multiplications
from ...calibrate.questions import Rung, fastest_good
from ...core import weights
from ...core.answer_cache import Notes, folder
from ...core.bundle import sha256
from ...core.cpu import cpu_flags
from ...core.files import to_json
from ...core.fp32_last_steps import fp32_below, steps_in_fp32
from ...core.plan import Plan
from ...core.runtime import Runtime
from ...export import executing, qdq
from ...version import __version__
from ..context import Context
from .bill import Bill
from .damages import LayerDamages
from .judges import judge_of
from .measurements import Convolution, FullPrecision, Measurements, SearchSubject
from .search_settings import SearchSettings

ANSWERS = 2  # version of what an answer says, raised when that changes
SAFER = 0.5  # share of a failed plan's damage that the next plan may do
MEASURED, COUNTED = (
    "ms of CPU time for a batch of {images}, from noise to image",
    "10^6 multiplications an image",
)
# names of the questions in a search's bill
TIMING = "time of each layer"
GLANCES = "PSNR of a plan at a glance"
LOOKS = "a plan's images compared with full precision"


@dataclass
class PlanLadder:
    """Hold a runtime's plans, from the fastest to the safest, and the rung that ships."""

    plans: Sequence[Plan]
    rung: int

    @property
    def plan(self) -> Plan:
        return self.plans[self.rung]

    def safer(self) -> bool:
        """Step to the next plan that damages half as much, or to the safest, and return whether the
        rung moved.
        """
        before, behind = self.rung, range(self.rung + 1, len(self.plans))
        most = SAFER * damage(self.plan)
        self.rung = next(
            (rung for rung in behind if damage(self.plans[rung]) <= most), len(self.plans) - 1
        )
        return self.rung > before


@dataclass(frozen=True)
class _Costs:
    """Hold the convolutions that may run in INT8 with their multiplications, what each saves, and
    what whole graphs cost.

    `last_steps` are the numbers of last steps that may run in FP32.
    """

    multiplications: Mapping[Convolution, int]
    saved: Sequence[float]
    unit: str
    last_steps: range
    graphs: Mapping[str, Whole]
    burden: float

    def of(self, plan: Plan) -> float:
        """Return the cost of a trajectory, with the burden of FP32 weights beside INT8 ones."""
        return cost(plan, self.graphs) * (1 + self.burden if plan.last else 1)


class Search:
    """Search plans for one generator; all runtimes share the full-precision side.

    Each answer is noted as soon as it is known, so that a search that was stopped goes on and a
    repeated one asks nothing. `trail` holds the looks that were taken and `bills` the time they
    took and the questions that were not asked, each by runtime, for the manifest.
    """

    def __init__(self, subject: SearchSubject, settings: SearchSettings, context: Context) -> None:
        self.subject, self.settings, self.context = subject, settings, context
        self.full = FullPrecision(subject, settings, context)
        self.trail: dict[str, list[dict[str, Any]]] = {}
        self.bills: dict[str, Bill] = {}

    def measurements(self, target: Runtime) -> Measurements:
        """Return the measurements, made on the runtime itself if it runs here, else on its
        stand-in.
        """
        return Measurements(self.full, target, executing(target))

    def plan(self, target: Runtime) -> PlanLadder:
        """Return the plans with the fastest chosen that fresh seeds will probably find within the
        budget, or the safest if there is none.
        """
        if not target.dialect.int8_ops:  # without INT8 every plan gives the same files
            self.trail[target.name], self.bills[target.name] = [], Bill()
            return PlanLadder((self.subject.base,), 0)
        return _RuntimeSearch(self, target).run()

    def _judged_by(self) -> str | list[str | int]:
        """Return the hash of the reference, or the network's identity if no distance is counted."""
        if self.settings.terms.is_distance_counted:
            return sha256(self.subject.source.reference)
        network = judge_of(None, self.context.feature_weights)
        return [network.name, network.sha256, network.size]

    def key(self, target: Runtime, host: Runtime) -> str:
        """Return a hash of everything that the answers depend on; the Q/DQ files of the fastest
        plan stand for models, ranges and dialect.
        """
        asked = {
            "edgegen": __version__,
            "answers": ANSWERS,
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
    """Search for one runtime, with its questions and the notes that answer them."""

    def __init__(self, search: Search, target: Runtime) -> None:
        self.settings, self.full = search.settings, search.full
        self.base, self.calibrated = search.subject.base, search.subject.calibrated
        self.listen, self.target = search.context.listen, target
        self.measure = search.measurements(target)
        self.trail = search.trail[target.name] = []
        self.bill = search.bills[target.name] = Bill(self.settings.seconds)
        key = search.key(target, self.measure.host)
        self.notes = Notes(folder("search") / f"{key}.jsonl")

    def run(self) -> PlanLadder:
        costs = self._costs()
        ladders = self._ladders(costs)
        safest = ladders[0][-1]  # this plan needs no look if nothing faster is good
        faster = [
            [p for p in plans if p is not safest and costs.of(p) <= costs.of(safest)]
            for plans in ladders
        ]
        sharp = [self._sharp(plans) for plans in faster]
        rungs = [[Rung(costs.of(plan), damage(plan)) for plan in plans] for plans in sharp]
        found = fastest_good(
            rungs,
            costs.of(safest),
            lambda place, rung: self._good(sharp[place][rung]),
            self._look_price,
            lambda: self.bill.left,
        )
        why = {one.place: one.why for one in found.unasked}
        self.bill.unasked = [
            {"plan": plan_in_words(plan), "why": why[place, rung]}
            for place, plans in enumerate(sharp)
            for rung, plan in enumerate(plans)
            if (place, rung) in why
        ] + [
            {
                "plan": plan_in_words(plan),
                "why": "its images do not reach the required PSNR in a quick test",
            }
            for plans, few in zip(faster, sharp, strict=True)
            for plan in plans[: len(plans) - len(few)]
        ]
        if found.best is None:
            return PlanLadder(ladders[0], len(ladders[0]) - 1)
        place, rung = found.best
        return PlanLadder(ladders[place], ladders[place].index(sharp[place][rung]))

    def _asked(
        self, step: str, question: str, find: Callable[[], Any], expected: float | None = None
    ) -> Any:
        """Return the answer, noted or found, and put its seconds on the bill."""
        answer = self.notes.recall(question, find)
        self.bill.add(step, self.notes.seconds(question), expected)
        return answer

    def _costs(self) -> _Costs:
        """Return what can run in INT8 and what that saves: measured as time if the target runs
        here, else counted in multiplications.
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
        saved = self._asked(TIMING, "saved", lambda: self._time_saved(list(counts)))
        unit = MEASURED.format(images=self.settings.images_timed)
        last_steps = self.full.last_steps
        # an engine's FP32 steps would need another engine
        if self.target.executable or len(last_steps) == 1:
            return _Costs(counts, saved, unit, range(1), by_share, burden)
        recorded = self.full.recorded
        calls = {graph: len(recorded[graph]) for graph in fp32_below(recorded, last_steps[-1])}
        graphs = {
            graph: Whole(int8, fp32, calls.get(graph, 1))
            for graph, (int8, fp32) in self._asked(
                TIMING, "whole", self.measure.graph_times
            ).items()
        }
        return _Costs(counts, saved, unit, last_steps, graphs, burden)

    def _time_saved(self, convolutions: Sequence[Convolution]) -> list[float]:
        label = f"timing each convolution on {self.target.name}"
        with self.listen.progress(label, len(self.calibrated)) as advance:
            return self.measure.time_saved(convolutions, advance)

    def _ladders(self, costs: _Costs) -> list[tuple[Plan, ...]]:
        """Return one ladder of plans, from the fastest to the safest, for each number of last steps
        in FP32.
        """
        damages = LayerDamages(self.measure, self.notes, self.bill, costs.last_steps).of(
            costs.multiplications
        )
        measured: list[list[Measured]] = [[] for _ in costs.last_steps]
        for (convolution, count), saved in zip(
            costs.multiplications.items(), costs.saved, strict=True
        ):
            for rungs, hurt in zip(measured, damages[convolution], strict=True):
                rungs.append(Measured(*convolution, hurt, saved, count))
        return [
            ladder(replace(self.base, last=last), rungs, costs.unit)
            for last, rungs in zip(costs.last_steps, measured, strict=True)
        ]

    def _sharp(self, plans: Sequence[Plan]) -> Sequence[Plan]:
        """Return the plans from the first one whose images reach the required PSNR at a glance."""
        label = f"testing plans quickly for {self.target.name}"
        with self.listen.progress(label, len(plans)) as advance:
            for rung, plan in enumerate(plans):
                advance(1)
                if self._psnr(plan) >= self.settings.terms.psnr:
                    return plans[rung:]
        return ()

    def _psnr(self, plan: Plan) -> float:
        question = f"psnr {_digest(plan)}"
        return float(self._asked(GLANCES, question, lambda: self.measure.psnr(plan)))

    def _look_price(self) -> float:
        """Return the seconds that a look at a plan is expected to take, from the seconds of a pair
        in earlier looks, or else in the glances.
        """
        looks, glances = self.bill.steps.get(LOOKS), self.bill.steps.get(GLANCES)
        pairs = sum(look["pairs"] for look in self.trail)
        if looks is not None and pairs:
            each = looks.seconds / pairs
        elif glances is not None:
            each = glances.seconds / (glances.asked * self.settings.images_glanced)
        else:
            return 0.0
        return each * (pairs / len(self.trail) if pairs else self.full.first_look)

    def _look(self, plan: Plan) -> dict[str, Any]:
        done = 0
        label = f"testing a plan for {self.target.name}, {plan_in_words(plan)}"
        with self.listen.progress(label, self.full.most_pairs, "pairs") as advance:

            def progress(now: int, _: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            return self.measure.look(plan, progress)

    def _good(self, plan: Plan) -> bool:
        """Compare a plan's images with full precision, record the look in the trail, and return
        whether the plan is likely to be within.
        """
        expected = self._look_price()
        look = self._asked(LOOKS, f"look {_digest(plan)}", lambda: self._look(plan), expected)
        self.trail.append(look)
        good = bool(
            look["likely"] >= look["enough"] and look["psnr_db"] >= self.settings.terms.psnr
        )
        change = "" if look["change"] is None else f"change {look['change']:+.2%}, "
        self.listen.note(
            f"{self.target.name}: {plan_in_words(plan)}, {change}"
            f"{look['psnr_db']:.1f} dB, {look['ruined']} ruined after "
            f"{look['pairs']} pairs: "
            f"{'likely' if good else 'not likely'} within"
        )
        return good


def plan_in_words(plan: Plan) -> str:
    """Describe a plan in words that distinguish it from the others of its search."""
    last = f", {steps_in_fp32(plan.last)}" if plan.last else ""
    return f"{sum(p == 'fp32' for _, p in plan.rules)} layers in FP32{last}"


def _digest(plan: Plan) -> str:
    """Return a hash that distinguishes a plan from the others of its search."""
    return hashlib.sha256(to_json([plan.rules, plan.last])).hexdigest()[:16]
