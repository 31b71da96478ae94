"""Calibrate the graphs of a generator: equalize them, measure the extremes and histograms of their
tensors, and choose a plan with ranges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from ...calibrate.choose import fastest
from ...calibrate.choose import plan as choose
from ...calibrate.equalize import ChannelObserver, equalized
from ...calibrate.histogram import Histogram, HistogramCounter
from ...calibrate.observe import ActivationStats, Observer
from ...calibrate.ranges import Choice, chosen
from ...calibrate.rounding import WeightMoments, rounded
from ...core import weights
from ...core.plan import Plan, is_rounded
from ...core.samplers import Sampler, asked
from ...core.spec import Array
from ...errors import InputError
from ...export import RUNTIMES, qdq, runtime
from ...export import onnx as onnx_files
from ...training.processes import ALONE, World
from .feeds import Trajectories

if TYPE_CHECKING:
    from ..context import Context
    from ..generators import LoadedGenerator
    from .feeds import Feeds

Models = Mapping[str, ModelProto]  # graph -> ONNX


@dataclass(frozen=True)
class Calibration:
    """Hold the results of a calibration by graph: the equalized models, the number of samples at
    each timestep, and for each quantized tensor its histogram and the range chosen from it.

    `plan` has all ranges, and INT8 wherever a layer may have it.
    """

    models: dict[str, ModelProto]
    plan: Plan
    coverage: dict[str, dict[str, int]]
    histograms: dict[str, dict[str, Histogram]]
    choices: dict[str, dict[str, Choice]]


def calibrate_graphs(
    source: LoadedGenerator,
    models: Models,
    feeds: Feeds,
    context: Context,
    world: World = ALONE,
    weight_bits: Collection[int] = (),
) -> Calibration:
    """Run the same feeds three times: to find the channels' maxima for equalization, then the
    extremes, then the histograms between them. All processes of `world` get the same result.

    With `weight_bits` (of the dialects that are written), one more run decides which way each
    weight is rounded; it sums in one process alone. A recovered generator keeps the scales of its
    base, under which it was trained, and rounds to nearest. Raises InputError for feeds that give
    NaN or infinite values.
    """
    base = source.scales
    seen: Models = (
        models
        if base is None
        else {name: onnx_files.to_onnx(graph, name) for name, graph in base.graphs().items()}
    )
    largest = channel_maxima(seen, feeds, context, world)
    even = {name: equalized(model, largest[name]) for name, model in seen.items()}
    if weight_bits and base is None:
        moments = weight_moments(source.generator.sampler, even, feeds, context)
        even = {name: rounded(m, moments[name], weight_bits) for name, m in even.items()}
    stats = tensor_extremes(source, even, feeds, context, world)
    plan = choose(even, stats)
    histograms = tensor_histograms(even, plan, feeds, context, world)
    choices = {
        name: {tensor: chosen(histogram) for tensor, histogram in of_graph.items()}
        for name, of_graph in histograms.items()
    }
    ranges = {
        name: {**of_graph, **{tensor: c.range for tensor, c in choices[name].items()}}
        for name, of_graph in plan.ranges.items()
    }
    if base is not None:  # a recovered generator ships its own weights with its base's factors
        even = {name: equalized(model, largest[name], seen[name]) for name, model in models.items()}
    coverage = {
        name: {f"{t:.9g}": count for t, count in of_graph.coverage.items()}
        for name, of_graph in stats.items()
    }
    plan = replace(plan, ranges=ranges, model=digest(even))
    return Calibration(even, plan, coverage, histograms, choices)


def calibrated(
    source: LoadedGenerator, models: Models, samples: int, context: Context
) -> Calibration:
    """Calibrate on the sampler's own trajectories, with weights rounded by second moments."""
    feeds = Trajectories(source.generator, samples, listen=context.listen)
    return calibrate_graphs(source, models, feeds, context, weight_bits=weight_bits_of(RUNTIMES))


def weight_bits_of(runtimes: Iterable[str]) -> list[int]:
    """Return the numbers of bits that an int8 weight has in these runtimes' dialects, each once."""
    dialects = [runtime(name).dialect for name in runtimes]
    return sorted({dialect.weight_bits for dialect in dialects if dialect.int8_ops})


def channel_maxima(
    models: Models, feeds: Feeds, context: Context, world: World
) -> dict[str, dict[str, Array]]:
    """Return, by graph and tensor, the maxima of x and of -x in each channel, (2, channels).

    Raises InputError if they are NaN or infinite.
    """
    observers = {name: ChannelObserver(m, context.threads) for name, m in models.items()}
    feeds.run(observers, "measuring channels")
    for observer in observers.values():
        for tensor in observer.tensors:
            observer.largest[tensor] = world.combined(observer.largest[tensor], "MAX")
            if not np.isfinite(observer.largest[tensor]).all():
                raise InputError(
                    "E-CALIB", f"{tensor} contained NaN or infinite values during calibration"
                )
    return {name: dict(observer.largest) for name, observer in observers.items()}


def weight_moments(
    sampler: Sampler, models: Models, feeds: Feeds, context: Context
) -> dict[str, WeightMoments]:
    """Return, by graph, the second moments of the inputs that each weight is multiplied with."""
    plan = fastest(models)
    moments = {
        name: WeightMoments(
            model,
            context.threads,
            [n.name for n in model.graph.node if plan.speaks_of(name, n.name, n.op_type)],
            context.memory.moments_bytes,
            feeds.samples * len(asked(sampler, name)),
        )
        for name, model in models.items()
    }
    feeds.run(moments, "measuring the effect of each weight")
    return moments


def tensor_extremes(
    source: LoadedGenerator, models: Models, feeds: Feeds, context: Context, world: World
) -> dict[str, ActivationStats]:
    """Return, by graph, the smallest and largest value of each tensor, and the samples at each
    timestep.
    """
    observers = {
        name: Observer(
            model,
            qdq.candidates(model),
            asked(source.generator.sampler, name),
            context.threads,
        )
        for name, model in models.items()
    }
    feeds.run(observers, "calibrating")
    found = {name: observer.stats for name, observer in observers.items()}
    for stats in found.values():
        stats.low, stats.high = world.combined(stats.low, "MIN"), world.combined(stats.high, "MAX")
        counts = world.combined(np.array(list(stats.coverage.values())), "SUM")
        stats.coverage = {t: int(n) for t, n in zip(stats.coverage, counts, strict=True)}
        stats.check()
    return found


def tensor_histograms(
    models: Models, plan: Plan, feeds: Feeds, context: Context, world: World
) -> dict[str, dict[str, Histogram]]:
    """Return, by graph, the histogram of each quantized tensor between its extremes."""
    counters = {
        name: HistogramCounter(
            model,
            {tensor: plan.ranges[name][tensor] for tensor in quantized(model, name, plan)},
            context.threads,
        )
        for name, model in models.items()
    }
    feeds.run(counters, "counting")
    for counter in counters.values():
        histograms = counter.histograms
        histograms.counts = world.combined(histograms.counts, "SUM")
        histograms.zeros = world.combined(histograms.zeros, "SUM")
    return {
        name: {tensor: c.histograms.of(tensor) for tensor in c.histograms.tensors}
        for name, c in counters.items()
    }


def digest(models: Models) -> str:
    """Return a sha256 that identifies the graphs to which a plan's ranges belong; it does not
    depend on how their weights are rounded.
    """
    found = hashlib.sha256()
    for name in sorted(models):
        plain = ModelProto()
        plain.CopyFrom(models[name])
        del plain.graph.initializer[:]
        plain.graph.initializer.extend(
            t for t in models[name].graph.initializer if not is_rounded(t.name)
        )
        found.update(name.encode() + b"\0" + weights.digest(plain))
    return found.hexdigest()


def quantized(model: ModelProto, graph: str, plan: Plan) -> list[str]:
    """Return the tensors that some runtime's dialect quantizes under the plan, in graph order."""
    dialects = [runtime(name).dialect for name in RUNTIMES]
    different = [d for k, d in enumerate(dialects) if d not in dialects[:k]]
    found = set().union(*(qdq.quantized_tensors(model, graph, plan, d) for d in different))
    return [tensor for tensor in qdq.candidates(model) if tensor in found]


def readers(model: ModelProto, graph: str, plan: Plan) -> Mapping[str, list[str]]:
    """Return, by tensor, the layers that read it and that the plan names."""
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if plan.speaks_of(graph, node.name, node.op_type):
            found.setdefault(node.input[0], []).append(node.name)
    return found
