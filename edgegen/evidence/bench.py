"""Measure latency on machines that are shared and noisy: CPU time, candidates interleaved in one
run, medians. It needs numpy only.

Wall time on such a machine measures its neighbours; the CPU time of one thread repeats to a few per
cent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..core.files import JsonObject
from ..core.runtime import Pipeline
from ..core.spec import Array

Feeds = Mapping[str, Sequence[Mapping[str, Array]]]  # graph -> named inputs, call by call


@dataclass(frozen=True)
class Latency:
    """Hold the time of one sampler step, the mean over a trajectory, in milliseconds for each
    batch: CPU time and wall time.
    """

    cpu_ms: float  # median
    cpu_p90_ms: float
    wall_ms: float  # median
    wall_p90_ms: float
    batch: int
    threads: int
    rounds: int

    def to_json(self) -> JsonObject:
        return asdict(self)


def record(pipeline: Pipeline, seeds: Sequence[int]) -> dict[str, list[dict[str, Array]]]:
    """Record what each graph is really asked along the sampler's trajectory: graph -> named inputs,
    call by call.
    """
    seen: dict[str, list[dict[str, Array]]] = {graph: [] for graph in pipeline.call}

    def spy(graph: str, execute: Callable[..., Array]) -> Callable[..., Array]:
        def call(**inputs: Array) -> Array:
            seen[graph].append(inputs)
            return execute(**inputs)

        return call

    spied = {graph: spy(graph, execute) for graph, execute in pipeline.call.items()}
    Pipeline(pipeline.latent, pipeline.sampler, spied, len(seeds))(seeds)
    return seen


def middle(recorded: Feeds) -> dict[str, list[Mapping[str, Array]]]:
    """Return the call in the middle of each graph's trajectory, which stands for the
    other steps.
    """
    return {graph: [calls[len(calls) // 2]] for graph, calls in recorded.items()}


def latencies(
    candidates: Mapping[str, Pipeline],
    inputs: Feeds,
    threads: int,
    rounds: int = 15,
    warm_up: int = 2,
) -> dict[str, Latency]:
    """Time these calls of each candidate in turn, round by round, so that a drift of the machine
    meets all alike.

    The number of steps is that of the graph with most calls. Before each timing a candidate repeats
    its first calls untimed: a sampler's steps follow one another and find no other network in the
    caches.
    """
    first, steps = (
        {graph: calls[:1] for graph, calls in inputs.items()},
        max(map(len, inputs.values())),
    )
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + rounds):
        for name, pipeline in candidates.items():
            _run(pipeline, first)
            start_wall, start_cpu = time.perf_counter(), time.process_time()
            _run(pipeline, inputs)
            spent_cpu, spent_wall = (
                time.process_time() - start_cpu,
                time.perf_counter() - start_wall,
            )
            if turn >= warm_up:
                cpu[name].append(1e3 * spent_cpu / steps)
                wall[name].append(1e3 * spent_wall / steps)
    batch = len(next(iter(next(iter(inputs.values()))[0].values())))
    return {
        name: Latency(
            float(np.median(cpu[name])),
            float(np.percentile(cpu[name], 90)),
            float(np.median(wall[name])),
            float(np.percentile(wall[name], 90)),
            batch,
            threads,
            rounds,
        )
        for name in candidates
    }


def slower(
    base: Pipeline,
    candidates: Mapping[str, Pipeline],
    inputs: Feeds,
    rounds: int = 15,
    warm_up: int = 2,
) -> dict[str, Array]:
    """Return the milliseconds of CPU time by which each candidate is slower than `base`, round by
    round, (rounds,) each.

    Each is timed beside a call of `base` of its own, in turn before and behind it, so that neither
    a drift of the machine nor one bad measurement of `base` counts for all.
    """
    differences: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warm_up + rounds):
        for name, pipeline in candidates.items():
            pair = (base, pipeline) if turn % 2 else (pipeline, base)
            first, second = (_cpu_ms(candidate, inputs) for candidate in pair)
            if turn >= warm_up:
                differences[name].append(second - first if turn % 2 else first - second)
    return {name: np.array(values) for name, values in differences.items()}


def _run(pipeline: Pipeline, inputs: Feeds) -> None:
    for graph, calls in inputs.items():
        for named in calls:
            pipeline.call[graph](**named)


def _cpu_ms(pipeline: Pipeline, inputs: Feeds) -> float:
    start = time.process_time()
    _run(pipeline, inputs)
    return 1e3 * (time.process_time() - start)
