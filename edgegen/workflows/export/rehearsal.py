"""Rehearse what follows an export's FP32 graphs over one batch of one call of each graph: the four
runs of a calibration, and the plan that comes out of them as files and sessions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...calibrate.choose import fastest, multiplications
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
from .calibration import quantized
from .feeds import BATCH
from .hosted import hosted
from .rounding_price import rounding_price

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...core.runtime import Runtime
    from ..generators import LoadedGenerator

Models = Mapping[str, "ModelProto"]
Calls = Mapping[str, Sequence[Mapping[str, Array]]]
Made = TypeVar("Made", bound=Callable[..., Array])


@dataclass(frozen=True)
class Rehearsed:
    """Hold equalized graphs, a plan with the ranges of the rehearsed calls, and the seconds of a
    calibration: `start_s` without any seed, and `seed_s` for each seed.
    """

    even: Models
    plan: Plan
    start_s: float
    seed_s: float

    def as_files(self, source: LoadedGenerator, target: Runtime) -> Pipeline:
        """Return the graphs quantized by the plan and loaded, for one thread."""
        files = {n: qdq.quantize(m, n, self.plan, target.dialect) for n, m in self.even.items()}
        return hosted(files, source.generator, 1, executing(target))


def asked_along_a_trajectory(source: LoadedGenerator) -> dict[str, list[dict[str, Array]]]:
    """Return what the sampler asks each graph for one image, recorded with stubs that
    answer zeros.
    """

    def silent(shape: Callable[[int], tuple[int, ...]]) -> Callable[..., Array]:
        return lambda **inputs: np.zeros(shape(len(next(iter(inputs.values())))), np.float32)

    generator = source.generator
    call = {
        name: silent(lambda batch, output=graph.output: output.sized(batch=batch))  # type: ignore[misc]
        for name, graph in generator.graphs().items()
    }
    return record(Pipeline(generator.latent, generator.sampler, call), range(1))


def quantizable(models: Models, name: str) -> list[str]:
    """Return the layers of a graph that a plan may name."""
    plan, counts = fastest(models), multiplications(models[name])
    return [
        node.name
        for node in models[name].graph.node
        if node.name in counts and plan.speaks_of(name, node.name, node.op_type)
    ]


def rehearsed(source: LoadedGenerator, models: Models, calls: Calls, threads: int) -> Rehearsed:
    """Rehearse on the `calls` of one image, as `asked_along_a_trajectory` returns them."""
    return _Rehearsal(source, models, calls, threads).run()


class _Rehearsal:
    """Add up the seconds of the rehearsal's parts."""

    def __init__(self, source: LoadedGenerator, models: Models, calls: Calls, threads: int) -> None:
        self.source, self.models, self.calls, self.threads = source, models, calls, threads
        self.start_s = self.seed_s = 0.0

    def run(self) -> Rehearsed:
        models, threads = self.models, self.threads
        sampler = self.source.generator.sampler

        def moments(name: str, model: ModelProto) -> WeightMoments:
            return WeightMoments(model, threads, quantizable(models, name))

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
        return Rehearsed(even, plan, self.start_s, self.seed_s)

    def _timed(self, models: Models, make: Callable[[str, ModelProto], Made]) -> dict[str, Made]:
        """Make an object for each model, time it, and show it a batch twice; return the objects by
        graph.
        """
        made = {}
        for name, model in models.items():
            began = time.monotonic()
            one = made[name] = make(name, model)
            self.start_s += time.monotonic() - began
            calls = self.calls[name]
            middle = calls[len(calls) // 2]
            inputs = {key: np.repeat(value, BATCH, axis=0) for key, value in middle.items()}
            _, took = (seconds(partial(one, **inputs)) for _ in range(2))  # the first call warms up
            self.seed_s += len(calls) * took / BATCH
        return made


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds of wall-clock time that `work` takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started
