"""What the work of an export costs on this machine, from a short measurement: a call of each graph,
a few images, a batch through what calibrates, one plan as files.

Where an image takes long, the call alone is measured, and the rest is scaled from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...calibrate.choose import fastest, kinds, multiplications
from ...calibrate.choose import plan as choose
from ...calibrate.equalize import ChannelObserver, equalized
from ...calibrate.histogram import HistogramCounter
from ...calibrate.observe import Observer
from ...calibrate.rounding import MOST_BYTES, WeightMoments
from ...core.plan import Plan
from ...core.runtime import Pipeline
from ...core.samplers import asked
from ...core.spec import Array
from ...evidence.bench import record
from ...export import executing, qdq
from ...machine.resident import peak_bytes
from .allowance import Prices, measured_prices
from .calibration import digest, quantized
from .feeds import BATCH
from .fp32 import fp32_models, parity_seeds
from .hosted import hosted
from .measurements import FullPrecision, SearchSubject
from .rounding_price import rounding_price
from .search_settings import SearchSettings

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...core.runtime import Runtime
    from ..context import Context
    from ..generators import LoadedGenerator

Models = Mapping[str, "ModelProto"]
Made = TypeVar("Made", bound=Callable[..., Array])
LONG = 1.0  # s that an image takes, from which on a call alone is measured
# times a call in full precision: of all four calibrating ones, and of one in INT8
CALIBRATING, IN_INT8 = 6.0, 0.6
ALONE = 0.05  # s of features where they are not measured


@dataclass(frozen=True)
class GraphCosts:
    """Of one graph: layers that may be in INT8 and kinds of them, calls and multiplications of an
    image, seconds of a call for one image on one thread in full precision and in INT8.
    """

    layers: int
    kinds: int
    calls: int
    multiplications: int
    full_s: float
    int8_s: float


@dataclass(frozen=True)
class ExportCosts:
    """Seconds, with the threads asked for, and bytes of resident memory at most, as far as the
    measurement came. `seed_s` is of a seed that is calibrated on, `start_s` of a calibration
    without any, `plan_s` of a plan that becomes files and sessions.
    """

    graphs: Mapping[str, GraphCosts]
    prices: Prices
    graphs_s: float
    start_s: float
    seed_s: float
    plan_s: float
    loaded_bytes: int
    graphs_bytes: int
    calibration_bytes: int
    images_bytes: int
    is_scaled: bool  # from one call, since an image takes long

    @property
    def int8_image_s(self) -> float:
        """Of an image in INT8, as `prices.image` is of one in full precision."""
        full, int8 = (
            sum(g.calls * seconds for g, seconds in self._calls(which)) for which in (0, 1)
        )
        return self.prices.image * int8 / full if full else self.prices.image

    def _calls(self, which: int) -> list[tuple[GraphCosts, float]]:
        return [(g, (g.full_s, g.int8_s)[which]) for g in self.graphs.values()]


def measured_costs(
    source: LoadedGenerator,
    targets: Sequence[Runtime],
    settings: SearchSettings,
    context: Context,
) -> ExportCosts:
    """Of an export of this generator; its first runtime stands for the others."""
    loaded, began = peak_bytes(), time.monotonic()
    models = fp32_models(source, context.listen)
    traced = time.monotonic() - began
    full = FullPrecision(SearchSubject(source, models, {}, Plan((), {})), settings, context)
    with context.listen.progress("measuring what an image costs"):
        calls = asked_along_a_trajectory(source)
        full_s = {name: _call_seconds(full.pipeline.call[name], c) for name, c in calls.items()}
        graphs_bytes = peak_bytes()
        image = sum(len(calls[name]) * full_s[name] for name in models) / context.threads
        trace = _Measured(source, models, calls, full_s, loaded, graphs_bytes)
        seeds = parity_seeds(source, models)
        graphs_s = traced + 3 * seeds * image * context.threads
        if image > LONG:
            return _scaled(trace, image, graphs_s)
        return _rehearsed(trace, full, targets[0], graphs_s)


@dataclass(frozen=True)
class _Measured:
    """What is known after the first calls."""

    source: LoadedGenerator
    models: Models
    calls: Mapping[str, Sequence[Mapping[str, Array]]]
    full_s: Mapping[str, float]
    loaded_bytes: int
    graphs_bytes: int

    def graphs(self, int8_s: Mapping[str, float]) -> dict[str, GraphCosts]:
        found = {}
        for name, model in self.models.items():
            counts, kind_of = multiplications(model), kinds(model)
            layers = _quantizable(self.models, name)
            found[name] = GraphCosts(
                len(layers),
                len({kind_of[node] for node in layers}),
                len(self.calls[name]),
                sum(counts[node] for node in layers),
                self.full_s[name],
                int8_s[name],
            )
        return found


def asked_along_a_trajectory(source: LoadedGenerator) -> dict[str, list[dict[str, Array]]]:
    """What the sampler asks each graph for one image, of graphs that answer nothing."""

    def silent(shape: Callable[[int], tuple[int, ...]]) -> Callable[..., Array]:
        return lambda **inputs: np.zeros(shape(len(next(iter(inputs.values())))), np.float32)

    generator = source.generator
    call = {
        name: silent(lambda batch, output=graph.output: output.sized(batch=batch))  # type: ignore[misc]
        for name, graph in generator.graphs().items()
    }
    return record(Pipeline(generator.latent, generator.sampler, call), range(1))


def _call_seconds(session: Callable[..., Array], calls: Sequence[Mapping[str, Array]]) -> float:
    """Of the middle call; of the faster one of two where that takes no second."""
    inputs = calls[len(calls) // 2]
    first = _seconds(lambda: session(**inputs))
    return first if first > LONG else min(first, _seconds(lambda: session(**inputs)))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _scaled(found: _Measured, image: float, graphs_s: float) -> ExportCosts:
    """From one call of each graph."""
    moments = {
        name: WeightMoments(model, 1, _quantizable(found.models, name))
        for name, model in found.models.items()
    }
    peak = peak_bytes()
    del moments  # what they take at most was asked
    rounding = rounding_price(found.models, MOST_BYTES)
    call_bytes = found.graphs_bytes - found.loaded_bytes
    return ExportCosts(
        found.graphs({name: IN_INT8 * s for name, s in found.full_s.items()}),
        Prices(image, ALONE, graphs_s / 4, rounding),
        graphs_s,
        rounding,
        CALIBRATING * image,
        graphs_s / 4,
        found.loaded_bytes,
        found.graphs_bytes,
        peak + call_bytes,
        peak + call_bytes,
        True,
    )


def _rehearsed(
    found: _Measured, full: FullPrecision, target: Runtime, graphs_s: float
) -> ExportCosts:
    """A batch through everything that calibrates, and the plan that follows, as files."""
    threads = full.context.threads
    calibrating = _Calibrating(found, threads)
    even, plan = calibrating.run()
    calibration_bytes = peak_bytes()
    prices = measured_prices(full, digest(found.models))
    began = time.monotonic()
    files = {name: qdq.quantize(m, name, plan, target.dialect) for name, m in even.items()}
    int8 = hosted(files, found.source.generator, 1, executing(target))
    plan_s = time.monotonic() - began
    int8_s = {name: _call_seconds(int8.call[name], found.calls[name]) for name in found.calls}
    return ExportCosts(
        found.graphs(int8_s),
        prices,
        graphs_s,
        calibrating.start_s,
        calibrating.seed_s,
        plan_s,
        found.loaded_bytes,
        found.graphs_bytes,
        calibration_bytes,
        peak_bytes(),
        False,
    )


def _quantizable(models: Models, name: str) -> list[str]:
    """Layers of a graph that a plan may speak of."""
    plan, counts = fastest(models), multiplications(models[name])
    return [
        node.name
        for node in models[name].graph.node
        if node.name in counts and plan.speaks_of(name, node.name, node.op_type)
    ]


class _Calibrating:
    """The four runs of a calibration over one batch of one call of each graph."""

    def __init__(self, found: _Measured, threads: int) -> None:
        self.found, self.threads = found, threads
        self.start_s = self.seed_s = 0.0

    def run(self) -> tuple[dict[str, ModelProto], Plan]:
        """Graphs whose channels are even, and a plan with the ranges that these calls had."""
        models, threads = self.found.models, self.threads
        sampler = self.found.source.generator.sampler

        def moments(name: str, model: ModelProto) -> WeightMoments:
            return WeightMoments(model, threads, _quantizable(models, name))

        def observer(name: str, model: ModelProto) -> Observer:
            return Observer(model, qdq.candidates(model), asked(sampler, name), threads)

        def counter(name: str, model: ModelProto) -> HistogramCounter:
            ranges = {t: plan.ranges[name][t] for t in quantized(model, name, plan)}
            return HistogramCounter(model, ranges, threads)

        channels = self._timed(models, lambda _, model: ChannelObserver(model, threads))
        even = {name: equalized(m, channels[name].largest) for name, m in models.items()}
        self._timed(even, moments)
        self.start_s += rounding_price(even, MOST_BYTES)
        observers = self._timed(even, observer)
        plan = choose(even, {name: one.stats for name, one in observers.items()})
        self._timed(even, counter)
        return even, plan

    def _timed(self, models: Models, make: Callable[[str, ModelProto], Made]) -> dict[str, Made]:
        """What was made of each, with a batch shown to it."""
        made = {}
        for name, model in models.items():
            began = time.monotonic()
            one = made[name] = make(name, model)
            self.start_s += time.monotonic() - began
            calls = self.found.calls[name]
            middle = calls[len(calls) // 2]
            inputs = {key: np.repeat(value, BATCH, axis=0) for key, value in middle.items()}
            took = min(_seconds(partial(one, **inputs)) for _ in range(2))
            self.seed_s += len(calls) * took / BATCH
        return made
