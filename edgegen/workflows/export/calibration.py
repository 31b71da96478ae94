"""What a calibration finds: equalized graphs, the extremes and histograms of their tensors, and a
plan with chosen ranges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto

from ...calibrate.choose import plan as choose
from ...calibrate.equalize import ChannelObserver, equalized
from ...calibrate.histogram import Counter, Histogram
from ...calibrate.observe import Observer
from ...calibrate.ranges import Choice, chosen
from ...calibrate.rounding import Moments, rounded
from ...core.plan import ROUNDED, Plan
from ...core.samplers import asked
from ...errors import InputError
from ...export import RUNTIMES, qdq, runtime
from ...export import onnx as onnx_files
from ...training.processes import ALONE, World

if TYPE_CHECKING:
    from ..generators import LoadedGenerator
    from .feeds import Feeds


@dataclass(frozen=True)
class Measured:
    """By graph: even models, samples at each timestep, and of each tensor that is quantized its
    histogram and its choice.
    """

    even: dict[str, ModelProto]
    plan: Plan
    coverage: dict[str, dict[str, int]]
    histograms: dict[str, dict[str, Histogram]]
    choices: dict[str, dict[str, Choice]]


def measure(
    source: LoadedGenerator,
    models: dict[str, ModelProto],
    feeds: Feeds,
    threads: int,
    world: World = ALONE,
    rounding: bool = False,
) -> Measured:
    """Three runs over the same feeds: channels to equalize, extremes, histograms between them. All
    processes get the same.

    rounding: one run more, for which way each weight is rounded; alone, since its sums are not
    those of one process. What recovered keeps the scales that it learnt under, those of its base,
    and nearest rounding.
    """
    seen = (
        models
        if source.scales is None
        else {k: onnx_files.to_onnx(g, k) for k, g in source.scales.graphs().items()}
    )
    channels = {k: ChannelObserver(m, threads) for k, m in seen.items()}
    feeds.run(channels, "looking at channels")
    for observer in channels.values():
        for tensor in observer.tensors:
            observer.largest[tensor] = world.combined(observer.largest[tensor], "MAX")
            if not np.isfinite(observer.largest[tensor]).all():
                raise InputError(
                    "E-CALIB", f"{tensor} holds NaN or infinite values while calibrating"
                )
    even = {k: equalized(m, channels[k].largest) for k, m in seen.items()}
    if rounding and source.scales is None:
        moments = {k: Moments(m, threads) for k, m in even.items()}
        feeds.run(moments, "looking at what each weight does")
        even = {k: rounded(m, moments[k]) for k, m in even.items()}
    observers = {
        k: Observer(m, qdq.candidates(m), asked(source.generator.sampler, k), threads)
        for k, m in even.items()
    }
    feeds.run(observers, "calibrating")
    for stats in (o.stats for o in observers.values()):
        stats.low, stats.high = world.combined(stats.low, "MIN"), world.combined(stats.high, "MAX")
        counts = world.combined(np.array(list(stats.coverage.values())), "SUM")
        stats.coverage = {t: int(n) for t, n in zip(stats.coverage, counts, strict=True)}
        stats.check()
    plan = choose(even, {k: o.stats for k, o in observers.items()})
    counters = {
        k: Counter(m, {t: plan.ranges[k][t] for t in quantized(m, k, plan)}, threads)
        for k, m in even.items()
    }
    feeds.run(counters, "counting")
    for histograms in (c.histograms for c in counters.values()):
        histograms.counts = world.combined(histograms.counts, "SUM")
        histograms.zeros = world.combined(histograms.zeros, "SUM")
    found = {k: {t: c.histograms.of(t) for t in c.histograms.tensors} for k, c in counters.items()}
    choices = {k: {t: chosen(h) for t, h in of.items()} for k, of in found.items()}
    ranges = {
        k: {**of, **{t: c.range for t, c in choices[k].items()}} for k, of in plan.ranges.items()
    }
    if source.scales is not None:
        even = {k: equalized(m, channels[k].largest, seen[k]) for k, m in models.items()}
    coverage = {k: {str(t): n for t, n in o.stats.coverage.items()} for k, o in observers.items()}
    return Measured(even, Plan(plan.rules, ranges, model=digest(even)), coverage, found, choices)


def digest(models: Mapping[str, ModelProto]) -> str:
    """sha256 of graphs, whichever way their weights are rounded: whose ranges a plan's are."""
    found = hashlib.sha256()
    for name in sorted(models):
        plain = ModelProto()
        plain.CopyFrom(models[name])
        del plain.graph.initializer[:]
        plain.graph.initializer.extend(
            t for t in models[name].graph.initializer if not t.name.endswith(ROUNDED)
        )
        found.update(name.encode() + b"\0" + plain.SerializeToString(deterministic=True))
    return found.hexdigest()


def quantized(model: ModelProto, graph: str, plan: Plan) -> list[str]:
    """Tensors that some runtime's dialect quantizes under the plan, in graph order."""
    dialects = [runtime(name).dialect for name in RUNTIMES]
    files = [
        qdq.quantize(model, graph, plan, d) for k, d in enumerate(dialects) if d not in dialects[:k]
    ]
    found = {
        node.input[0]
        for file in files
        for node in file.graph.node
        if node.op_type == "QuantizeLinear"
    }
    return [tensor for tensor in qdq.candidates(model) if tensor in found]


def readers(model: ModelProto) -> Mapping[str, list[str]]:
    """Tensor -> convolutions that read it."""
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found.setdefault(node.input[0], []).append(node.name)
    return found
