"""Measure what a search for a plan needs on one runtime: images and times of plans, on seeds that
the verdict never uses.

Nothing here decides or notes anything; search.py does both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.fp32_last_steps import TIME, fp32_below, timesteps_by_graph, with_fp32_steps
from ...core.plan import Plan, Precision
from ...core.runtime import Pipeline, Runtime, Session
from ...core.seeds import SEARCH
from ...core.spec import Array
from ...core.weights import is_apart
from ...evidence import bench
from ...evidence.classes import class_names, worst
from ...evidence.compare import Pairs, number
from ...evidence.distances import PairedPsnr, squared_error
from ...evidence.full_side import FullSide, pixels_of
from ...evidence.judge import Noted, best_tail_chance, counted_reference, gates_at, tail_chance
from ...evidence.looks import LEAST_PAIRS, LookSchedule, first_look
from ...evidence.terms import level
from ...export import STAND_IN, qdq, runtime
from ...export.stand_ins import FloatOnnxRuntime
from ..fast_features import fast_features
from .hosted import BATCH as hosted_batch
from .hosted import hosted
from .judges import judge_of, reference_for
from .layer_times import LayerTimes
from .search_settings import SearchSettings

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...evidence.reference import Reference
    from ..context import Context
    from ..generators import LoadedGenerator

Convolution = tuple[str, str]  # graph, node


@dataclass(frozen=True)
class SearchSubject:
    """Hold what plans are searched for: the FP32 models, the calibrated models that are quantized,
    and `base`, the plan with INT8 wherever it is allowed.
    """

    source: LoadedGenerator
    fp32: Mapping[str, ModelProto]
    calibrated: Mapping[str, ModelProto]
    base: Plan


class FullPrecision:
    """Provide the full-precision side that all plans and runtimes are compared with; each part is
    made when it is first needed.
    """

    def __init__(self, subject: SearchSubject, settings: SearchSettings, context: Context) -> None:
        self.subject, self.settings, self.context = subject, settings, context

    def host(self, models: Mapping[str, ModelProto], target: Runtime, threads: int) -> Pipeline:
        """Return these models as the generator's pipeline on `target`."""
        batch = min(hosted_batch, self.context.memory.images)
        return hosted(models, self.subject.source.generator, threads, target, batch)

    @property
    def at_once(self) -> int:
        """Return how many candidates are loaded at the same time: one for large graphs."""
        graphs = (model.graph for model in self.subject.fp32.values())
        large = any(is_apart(tensor) for graph in graphs for tensor in graph.initializer)
        return 1 if large else self.context.threads

    @cached_property
    def _stored(self) -> Reference | None:
        """Return the statistics that the distance is counted to; None if it is not counted."""
        return reference_for(self.subject.source.reference, self.settings.terms)

    @cached_property
    def pipeline(self) -> Pipeline:
        return self.loaded()

    def loaded(self) -> Pipeline:
        """Return a pipeline with sessions of its own, whatever was loaded before."""
        return self.host(self.subject.fp32, runtime(STAND_IN), self.context.threads)

    @cached_property
    def side(self) -> FullSide:
        """Return the images and features of the search's seeds."""
        source, terms = self.subject.source, self.settings.terms
        features = fast_features(judge_of(self._stored, self.context.feature_weights))
        side = FullSide(
            self.pipeline,
            features,
            counted_reference(self._stored, terms),
            SEARCH.first,
            self.context.threads,
            class_names(source.about, source.generator.latent, SEARCH.first),
        )
        side.kept_bytes = self.context.memory.pixels_bytes
        return side

    def prepare(self) -> None:
        """Make everything that damages are measured with before several are measured at once."""
        self.side.projected(self.settings.images_alone)
        _ = self.recorded, self.answered

    @cached_property
    def recorded(self) -> dict[str, list[dict[str, Array]]]:
        """Return what each graph is asked along the trajectory of one batch."""
        return bench.record(
            self.pipeline, range(min(self.settings.images_timed, self.context.memory.images))
        )

    @cached_property
    def answered(self) -> dict[str, list[tuple[dict[str, Array], Array]]]:
        """Return a few calls of each graph, from its first to its last, with the full-precision
        answers.
        """
        found = {}
        for graph, calls in self.recorded.items():
            places = np.linspace(0, len(calls) - 1, self.settings.calls_alone).round()
            some = [calls[k] for k in sorted(set(places.astype(int).tolist()))]
            found[graph] = [(call, self.pipeline.call[graph](**call)) for call in some]
        return found

    @cached_property
    def last_steps(self) -> range:
        """Return the numbers of last sampler steps that a plan may leave to FP32."""
        steps = min(map(len, timesteps_by_graph(self.recorded).values()), default=1)
        return range(min(self.settings.last_steps, steps // 2) + 1)

    @property
    def first_look(self) -> int:
        """Return the number of pairs in the first look at a plan."""
        if self.is_small:
            return self.settings.terms.maximum
        return first_look(counted_reference(self._stored, self.settings.terms))

    @property
    def is_small(self) -> bool:
        """Return whether a verdict has fewer pairs than a first look usually has."""
        return self.settings.terms.maximum < LEAST_PAIRS

    @property
    def most_pairs(self) -> int:
        """Return the most pairs that an undecided plan is looked at with.

        It grows with the verdict's pairs: a user who allows a sharper verdict does not want a safer
        plan than necessary.
        """
        settings = self.settings
        if self.is_small:
            return settings.terms.maximum
        return max(settings.patience * self.first_look, settings.terms.maximum // 2)


class AnsweredOnce:
    """Execute each different call of a session once: trajectories that differ only in their last
    steps share the steps before.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._answers: dict[bytes, Array] = {}

    def __call__(self, **inputs: Array) -> Array:
        call = hashlib.sha256()
        for name, value in sorted(inputs.items()):
            call.update(name.encode())
            call.update(value.tobytes())
        key = call.digest()
        if key not in self._answers:
            self._answers[key] = self._session(**inputs)
        return self._answers[key]


class Measurements:
    """Measure plans on one runtime; `host` executes their files, the runtime itself or its
    stand-in.
    """

    def __init__(self, full: FullPrecision, target: Runtime, host: Runtime) -> None:
        self.full, self.target, self.host = full, target, host

    def damages(self, layers: Sequence[Convolution], last_steps: Sequence[int]) -> list[float]:
        """Return the mean squared distance that these layers of one graph, alone in INT8, move the
        images' features, for each number of last steps in FP32.

        Features count, because they are what is judged: noise that squared pixels hardly show can
        move them far.
        """
        graph, _ = layers[0]
        count, side = self.full.settings.images_alone, self.full.side
        int8 = self._alone(layers)
        call: dict[str, Session] = {**self.full.pipeline.call, graph: AnsweredOnce(int8)}
        distances = []
        for last in last_steps:
            images = pixels_of(self._with_last(call, last), side.seeds(0, count))
            moved = side.project(images) - side.projected(count)
            distances.append(float(np.square(moved).sum(1).mean()))
        return distances

    def _alone(self, layers: Sequence[Convolution]) -> Session:
        """Return a session of the layers' graph with everything else in FP32.

        A layer's rounding is the same on every runtime, so this uses the one that is exact on every
        machine and starts fastest.
        """
        graph, _ = layers[0]
        rules: list[tuple[str, Precision]] = [(f"{g}/{node}", "int8") for g, node in layers]
        alone = replace(self.full.subject.base, rules=tuple(rules))
        return self._pipeline(self._files(alone, [graph]), FloatOnnxRuntime()).call[graph]

    def errors(self, layers: Sequence[Convolution], last_steps: Sequence[int]) -> list[float]:
        """Return the mean squared error of the graph's answers with these layers alone in INT8,
        over the mean square of the answers, for each number of last steps in FP32.

        It is measured on a few calls and not on whole trajectories.
        """
        graph, _ = layers[0]
        int8, calls = self._alone(layers), self.full.answered[graph]
        relative = [_relative(int8(**call), exact) for call, exact in calls]
        found = []
        for last in last_steps:
            below = fp32_below(self.full.recorded, last).get(graph, -math.inf)
            counted = [
                error
                for error, (call, _) in zip(relative, calls, strict=True)
                if TIME not in call or call[TIME].max() >= below
            ]
            found.append(float(np.mean(counted)))
        return found

    def time_saved(
        self, convolutions: Sequence[Convolution], advance: Callable[[int], None]
    ) -> list[float]:
        """Return the milliseconds that each convolution in FP32 adds to a trajectory with
        everything else in INT8; calls advance(1) after each graph.

        A value is below 0 only if FP32 is faster beyond doubt; it is the settings' least if that is
        undecided.
        """
        full, settings = self.full, self.full.settings
        calls = {graph: len(recorded) for graph, recorded in full.recorded.items()}
        return LayerTimes(
            full.subject.calibrated,
            calls,
            self._time_saved,
            settings.kinds_timed,
            settings.least_saved_ms,
        ).saved(convolutions, advance)

    def _time_saved(self, graph: str, nodes: Sequence[str]) -> dict[str, float]:
        """Return the milliseconds by node over all calls of the graph in a trajectory."""
        base, calls, settings = (
            self.full.subject.base,
            self.full.recorded[graph],
            self.full.settings,
        )

        def timed(plan: Plan) -> Pipeline:
            return self._pipeline(self._files(plan, [graph]), self.target, 1)

        middle_calls = {graph: bench.middle(self.full.recorded)[graph]}
        whole = timed(base)
        slower: dict[str, Array] = {}
        for node in nodes:  # only one session beside the first at a time, to bound memory
            other = timed(replace(base, rules=((f"{graph}/{node}", "fp32"), *base.rules)))
            slower |= bench.slower(whole, {node: other}, middle_calls, settings.rounds)
        saved = {}
        for node, times in slower.items():
            middle, high = (
                round(float(q) * len(calls), 3) for q in np.quantile(times, (0.5, 0.75))
            )
            saved[node] = max(middle, settings.least_saved_ms) if high > 0 else middle
        return saved

    def graph_times(self) -> dict[str, tuple[float, float]]:
        """Return the milliseconds of each graph's calls in a trajectory: all in INT8, and FP32."""
        int8 = self._pipeline(self._files(self.full.subject.base), self.target, 1)
        fp32 = self._pipeline(self.full.subject.fp32, self.target, 1)
        found = {}
        for graph, calls in self.full.recorded.items():
            middle = {graph: bench.middle(self.full.recorded)[graph]}
            times = bench.latencies(
                {"int8": int8, "fp32": fp32}, middle, 1, self.full.settings.rounds
            )
            found[graph] = (len(calls) * times["int8"].cpu_ms, len(calls) * times["fp32"].cpu_ms)
        return found

    def psnr(self, plan: Plan) -> float:
        """Return the PSNR in dB between a few of the plan's images and full precision, without
        their features; 999 for equal images.
        """
        count, side = self.full.settings.images_glanced, self.full.side
        images = pixels_of(self.pipeline(plan), side.seeds(0, count))
        errors = squared_error(side.pixels(0, count), images)
        return min(PairedPsnr.of(errors).pooled_db, 999.0)

    def look(self, plan: Plan, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Compare the plan's images with full precision until the plan can be taken or
        dropped.

        Returns the entry that the manifest's trail keeps of it.
        """
        settings, side = self.full.settings, self.full.side
        terms, holds_at = settings.terms, level(0)
        noted = Noted(side)
        pairs = Pairs(side, self.pipeline(plan), noted)
        when = LookSchedule(self.full.first_look, self.full.most_pairs, holds_at)
        for look in pairs.looks(when, terms.budget, progress):
            gates = gates_at(pairs, look, terms)
            likely = min(
                gates.chance(look, terms.maximum, holds_at),
                tail_chance(noted, terms, holds_at),
            )
            # with few pairs even equal images leave doubt, which no safer plan could remove
            best = best_tail_chance(len(noted.ruined), terms, holds_at)
            enough = min(1 - settings.doubt, best)
            if not settings.hope < likely < enough:
                break
        change, one = look.verdict.change, worst(gates.classes)
        return {
            "fp32_convolutions": sum(p == "fp32" for _, p in plan.rules),
            "fp32_last_steps": plan.last,
            "likely": likely,
            "enough": enough,
            **{"change": number(change.value), "low": number(change.low)},
            "high": number(change.high),
            "psnr_db": min(PairedPsnr.of(pairs.errors).pooled_db, 999.0),
            "worst_class_db": min(one.psnr_db, 999.0) if one else None,
            "moved": gates.moved.figure.value,
            "ruined": sum(noted.ruined),
            "pairs": look.count,
            "first_seed": SEARCH.first,
            "executed_by": self.host.name,
        }

    def pipeline(self, plan: Plan) -> Pipeline:
        """Return the pipeline of the plan on this runtime or its stand-in."""
        return self._with_last(
            self._pipeline(self._files(plan), self.host).call,
            plan.last,
        )

    def _files(self, plan: Plan, graphs: Sequence[str] | None = None) -> dict[str, ModelProto]:
        """Return the plan's Q/DQ models in the runtime's dialect."""
        calibrated = self.full.subject.calibrated
        return {
            graph: qdq.quantize(calibrated[graph], graph, plan, self.target.dialect)
            for graph in graphs or calibrated
        }

    def _pipeline(
        self, models: Mapping[str, ModelProto], host: Runtime, threads: int = 0
    ) -> Pipeline:
        return self.full.host(models, host, threads or self.full.context.threads)

    def _with_last(self, call: Mapping[str, Session], last: int) -> Pipeline:
        """Return a pipeline of these sessions with the last steps in FP32."""
        full = self.full.pipeline
        below = fp32_below(self.full.recorded, last)
        mixed = with_fp32_steps(call, full.call, below)
        return Pipeline(full.latent, full.sampler, mixed, self.full.context.memory.images)


def _relative(found: Array, exact: Array) -> float:
    """Return the mean squared error over the mean square of the exact answer, or the error itself
    if that is 0.
    """
    error, whole = np.square(found - exact, dtype=np.float64).mean(), np.square(exact).mean()
    return float(error / (whole or 1.0))
