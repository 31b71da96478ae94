"""Predict the seconds and the memory of each step of an export from what its work costs on this
machine.

A search and a verdict end as soon as enough is seen, so the prediction is of the common case: LOOKS
plans are looked at, and no pair of the verdict is ruined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...evidence.full_side import KEPT_BYTES
from ...evidence.looks import LEAST_PAIRS
from ...evidence.terms import Terms, level
from .allowance import WARM_UP, Allowance, Work, allowance, within
from .feeds import BATCH
from .measured_costs import ExportCosts
from .search_settings import SearchSettings

# the names that the evidence gives these steps
STEPS = ("FP32 graphs", "calibration", "search", "INT8 files", "verdict")
LOOKS = 5  # plans that are looked at for each number of last steps in FP32
GLANCES = 2  # plans whose PSNR is measured, for each number of last steps too
RUNS = 2  # runs of a graph for one time: one call to warm up and one that counts
VERDICT_ROUNDS = 17  # rounds of a whole trajectory in which the verdict times each side
# Memory is predicted as this many times what was measured, because allocators keep more in a long
# run. Six exports (cas-dm, cas-dm adapted to two sets of photos, dkgm, lcd and a brought folder)
# took 0.71 to 1.24 of the prediction: no factor is within 30 % of all, and too much is better than
# too little.
GROWN = 1.6
FEATURE_BYTES = 8 * 1280  # bytes of an image's features


@dataclass(frozen=True)
class StepPrediction:
    """Hold the seconds of a step and its peak of resident memory in bytes."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class ExportPrediction:
    """Hold the prediction of each step by the name that an export's evidence gives it.

    `image_seconds` is for an image in full precision, `disk_bytes` the most that is needed.
    `is_scaled`: one call of each graph was measured and the rest follows from it. `allowed_seconds`
    is None if no time was given.
    """

    steps: Mapping[str, StepPrediction]
    image_seconds: float
    disk_bytes: int
    threads: int
    runtimes: tuple[str, ...]
    allowed_seconds: float | None
    is_scaled: bool

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps.values())

    @property
    def peak_bytes(self) -> int:
        return max(step.peak_bytes for step in self.steps.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": self.seconds, "peak_bytes": self.peak_bytes}


@dataclass(frozen=True)
class ExportWork:
    """Hold what is predicted: the settings of a search with the terms of its verdict, the images of
    a first look, runtimes, threads, seeds, the bytes of an image's pixels, and the time that is
    given in seconds.
    """

    search: SearchSettings
    first_look: int
    runtimes: int
    threads: int
    seeds: int
    image_bytes: int
    time: float | None = None


def predicted_steps(costs: ExportCosts, work: ExportWork) -> dict[str, StepPrediction]:
    """Return the seconds and bytes of each step.

    Raises UsageError (E-TIME), as the export itself does, if the given time is not enough.
    """
    search, seeds, allowed = work.search, work.seeds, None
    if work.time is not None:
        graphs = costs.graphs.values()
        asked = Work(
            len([g for g in graphs if g.layers]),
            sum(g.layers for g in graphs),
            sum(g.kinds for g in graphs),
            sum(g.calls for g in graphs),
            work.runtimes,
            seeds,
            search.terms.maximum,
            search.terms.fewest,
            work.threads,
        )
        left = work.time - costs.graphs_s
        allowed = allowance(left, costs.prices, asked, spent=costs.graphs_s)
        terms = allowed.bound(search.terms)
        search = within(replace(search, terms=terms), allowed, costs.prices, asked)
        seeds = allowed.seeds
    seconds = (
        costs.graphs_s,
        costs.prices.start + seeds * costs.prices.seed,
        work.runtimes * _search_seconds(costs, work, search, allowed),
        work.runtimes * costs.prices.plan,
        work.runtimes * _verdict_seconds(costs, work, search.terms),
    )
    peaks = _peaks(costs, work, search.terms)
    return {
        name: StepPrediction(round(s, 1), int(peak))
        for name, s, peak in zip(STEPS, seconds, peaks, strict=True)
    }


def _first_look(work: ExportWork, terms: Terms) -> int:
    return terms.maximum if terms.maximum < LEAST_PAIRS else work.first_look


def _search_seconds(
    costs: ExportCosts, work: ExportWork, search: SearchSettings, allowed: Allowance | None
) -> float:
    """Return the seconds of the search on one runtime, at most what it may take."""
    steps = max((g.calls for g in costs.graphs.values()), default=1)
    ladders = min(search.last_steps, steps // 2) + 1
    timing = _timing_seconds(costs, search)
    pairs = _first_look(work, search.terms)
    look = pairs * (costs.int8_image_s + costs.prices.features) + costs.prices.plan
    full = pairs * (costs.prices.image + costs.prices.features)
    glance = search.images_glanced * costs.int8_image_s + costs.prices.plan
    questions = timing + _damage_seconds(costs, work, search, ladders)
    found = questions + full + ladders * (GLANCES * glance + LOOKS * look)
    if allowed is None:
        return found
    return min(found, max(allowed.search_seconds, questions))


def _timing_seconds(costs: ExportCosts, search: SearchSettings) -> float:
    """Return the seconds of timing on one thread: one layer of each kind that is timed, beside the
    graph with all in INT8; then each graph in INT8 and in full precision.
    """
    graphs = costs.graphs.values()
    every = sum(g.kinds for g in graphs)
    share = 1.0 if search.kinds_timed is None else min(1.0, search.kinds_timed / max(every, 1))
    calls = (search.rounds + WARM_UP) * search.images_timed
    each = share * sum(g.kinds * (calls * 2 * g.int8_s + costs.prices.plan) for g in graphs)
    return each + RUNS * calls * sum(g.int8_s + g.full_s for g in graphs)


def _damage_seconds(
    costs: ExportCosts, work: ExportWork, search: SearchSettings, ladders: int
) -> float:
    """Return the seconds of measuring every layer alone along whole trajectories, or some of them
    so and the errors of all.
    """
    layers = sum(g.layers for g in costs.graphs.values())
    steps = max((g.calls for g in costs.graphs.values()), default=1)
    once = costs.prices.image * (1 + (ladders - 1) / steps) + ladders * costs.prices.features
    along = search.images_alone * once + costs.prices.plan / (
        1 if costs.is_scaled else work.threads
    )
    whole = layers * search.images_alone * _trajectory_work(costs)
    if whole <= search.whole_work:
        return layers * along
    few = sum(min(search.layers_checked, g.layers) for g in costs.graphs.values())
    units = layers if search.groups is None else min(search.groups, layers)
    errors = sum(
        g.layers * min(search.calls_alone, g.calls) * search.images_timed * g.full_s
        for g in costs.graphs.values()
    )
    share = units / max(layers, 1)
    return few * along + share * errors / work.threads + units * costs.prices.plan


def _trajectory_work(costs: ExportCosts) -> float:
    return float(sum(g.calls * g.multiplications for g in costs.graphs.values()))


def _verdict_seconds(costs: ExportCosts, work: ExportWork, terms: Terms) -> float:
    """Return the seconds of the verdict on one runtime: a first look with features, pixels until
    the absence of ruined pairs decides, and the times of both sides.
    """
    featured = min(_first_look(work, terms), terms.maximum)
    pixels = max(featured, min(terms.tail_looks(level(0)).first, terms.pixel_pairs))
    pair = costs.prices.image + costs.int8_image_s
    timed = VERDICT_ROUNDS * BATCH * work.threads * pair
    return pixels * pair + 2 * featured * costs.prices.features + timed + costs.prices.plan


def _peaks(costs: ExportCosts, work: ExportWork, terms: Terms) -> list[float]:
    """Return the peak of resident memory by step, in bytes: what was measured, times GROWN, and the
    images that a side keeps.
    """
    featured = _first_look(work, terms)
    pixels = max(featured, min(terms.tail_looks(level(0)).first, terms.pixel_pairs))
    beside = GROWN * max(costs.images_bytes, costs.calibration_bytes)
    searched = beside + min(featured * work.image_bytes, KEPT_BYTES) + featured * FEATURE_BYTES
    judged = beside + min(pixels * work.image_bytes, KEPT_BYTES) + 2 * featured * FEATURE_BYTES
    return [
        GROWN * costs.graphs_bytes,
        GROWN * costs.calibration_bytes,
        searched,
        searched,
        judged,
    ]
