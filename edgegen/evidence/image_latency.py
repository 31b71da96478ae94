"""Measure what a user waits for: the time from a seed, or a prompt, to 8-bit images. It needs numpy
only.

All candidates are timed in turn, round by round, in CPU time and wall time; every sample is kept. A
round is divided into stages whose parts add up to the whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, TypeVar

import numpy as np

from ..core.images import to_uint8
from ..core.latent import Latent
from ..core.runtime import Pipeline
from ..core.spec import Array
from ..core.verdict import Interval
from .shares import at_most

TEXT, CONVERSION, REST = "text encoder", "conversion to 8 bits", "sampler and noise"
GRAPH = "graph "  # put before a graph's name, so that no graph is taken for another stage
UNSTABLE = 0.10  # width of the median's interval over the median, above which it says too little
LEVEL = 0.95  # level of that interval
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
Kind = Literal["cpu", "wall"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Clock:
    """Give the seconds of this process's CPU time, and of wall time."""

    cpu: Callable[[], float] = time.process_time
    wall: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Spent:
    """Hold milliseconds, and the number of calls that they took."""

    cpu_ms: float
    wall_ms: float
    calls: int = 1


@dataclass(frozen=True)
class ImageSample:
    """Hold one round of one candidate: the whole, and its stages, which add up to it."""

    whole: Spent
    stages: Mapping[str, Spent]


@dataclass(frozen=True)
class ImageMaker:
    """Make a candidate's images.

    `encode` takes a prompt through the text encoder and returns the latent that shows it; None if
    no text is encoded.
    """

    pipeline: Pipeline
    encode: Callable[[], Latent] | None = None

    def __call__(self, seeds: Sequence[int]) -> np.ndarray:
        """Return images (n, h, w, 3) uint8, as a user gets them."""
        return _Stopwatch(Clock()).images(self, seeds)


@dataclass
class _Stopwatch:
    """Time one round, and keep the first inputs of each graph."""

    clock: Clock
    stages: dict[str, Spent] = field(default_factory=dict)
    first: dict[str, Mapping[str, Array]] = field(default_factory=dict)

    def timed(self, stage: str, work: Callable[P, R]) -> Callable[P, R]:
        def call(*given: P.args, **named: P.kwargs) -> R:
            wall, cpu = self.clock.wall(), self.clock.cpu()
            made = work(*given, **named)
            cpu, wall = self.clock.cpu() - cpu, self.clock.wall() - wall
            so_far = self.stages.get(stage, Spent(0.0, 0.0, 0))
            self.stages[stage] = Spent(
                so_far.cpu_ms + 1e3 * cpu, so_far.wall_ms + 1e3 * wall, so_far.calls + 1
            )
            return made

        return call

    def graph(self, name: str, execute: Callable[..., Array]) -> Callable[..., Array]:
        timed = self.timed(GRAPH + name, execute)

        def call(**inputs: Array) -> Array:
            self.first.setdefault(name, inputs)
            return timed(**inputs)

        return call

    def images(self, maker: ImageMaker, seeds: Sequence[int]) -> np.ndarray:
        pipeline = maker.pipeline
        latent = pipeline.latent
        if maker.encode is not None:
            latent = self.timed(TEXT, maker.encode)()
        call = {name: self.graph(name, execute) for name, execute in pipeline.call.items()}
        made = Pipeline(latent, pipeline.sampler, call, pipeline.batch)(seeds)
        return self.timed(CONVERSION, to_uint8)(made)


class _Timed:
    """Time one candidate over several rounds."""

    def __init__(self, maker: ImageMaker, clock: Clock) -> None:
        self.maker, self.clock = maker, clock
        self.first: Mapping[str, Mapping[str, Array]] = {}

    def warm(self) -> None:
        """Repeat the first call of each graph untimed: whoever makes one image after another finds
        no other network in the caches.
        """
        for name, inputs in self.first.items():
            self.maker.pipeline.call[name](**inputs)

    def sample(self, seeds: Sequence[int]) -> ImageSample:
        """Time one round; to_uint8 raises EdgegenError for images that are not finite."""
        watch = _Stopwatch(self.clock)
        whole = _Stopwatch(self.clock)
        whole.timed("whole", watch.images)(self.maker, seeds)
        self.first = watch.first
        spent, stages = whole.stages["whole"], dict(watch.stages)
        cpu = sum(one.cpu_ms for one in stages.values())
        wall = sum(one.wall_ms for one in stages.values())
        stages[REST] = Spent(max(spent.cpu_ms - cpu, 0.0), max(spent.wall_ms - wall, 0.0))
        return ImageSample(spent, stages)


@dataclass(frozen=True)
class ImageTimes:
    """Hold the samples of each candidate that made all of its images, and why others failed."""

    samples: Mapping[str, Sequence[ImageSample]]
    failed: Mapping[str, str]


def image_times(
    makers: Mapping[str, ImageMaker],
    seeds: Sequence[int],
    rounds: int,
    clock: Clock | None = None,
    warm_up: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> ImageTimes:
    """Time each candidate in turn, round by round, so that a drift of the machine meets
    all alike.

    All make the same images, `seeds` in one batch. A candidate that fails is left out of the rounds
    that follow.
    """
    running = {name: _Timed(maker, clock or Clock()) for name, maker in makers.items()}
    samples: dict[str, list[ImageSample]] = {name: [] for name in makers}
    failed: dict[str, str] = {}
    for turn in range(warm_up + rounds):
        for name, timed in list(running.items()):
            try:
                timed.warm()
                sample = timed.sample(seeds)
            # runtimes raise errors of any class; the other candidates go on
            except Exception as error:
                failed[name] = in_one_line(error)
                del running[name]
                continue
            if turn >= warm_up:
                samples[name].append(sample)
        advance(1)
    return ImageTimes({name: samples[name] for name in running}, failed)


def in_one_line(error: Exception) -> str:
    """Return what an exception says in one line, for a table."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return a percentile, or None if the samples are too few to have one beyond it: 10 resolve the
    90th, 1,000 the 99.9th.
    """
    if len(samples) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.percentile(samples, 100 * share))


def percentiles(samples: Sequence[float]) -> dict[str, float | None]:
    """Return the percentiles by the names of SHARES."""
    return {name: percentile(samples, share) for name, share in SHARES.items()}


def median_interval(samples: Sequence[float]) -> Interval:
    """Return the median, and the samples between which the median of all rounds lies with at least
    LEVEL.

    The interval is of order statistics and holds for any distribution. Fewer than six rounds give
    their whole range.
    """
    values, number = np.sort(samples), len(samples)
    low, high = 0, number // 2  # samples that may be left out at either end; `high` is too many
    while high - low > 1:
        middle = (low + high) // 2
        fits = at_most(middle - 1, number, 0.5) <= (1 - LEVEL) / 2
        low, high = (middle, high) if fits else (low, middle)
    out = max(low - 1, 0)
    ends = values[[out, number - 1 - out]].tolist()
    return Interval(float(np.median(values)), *ends)


def ratios(base: Sequence[float], own: Sequence[float]) -> list[float]:
    """Return how many times as fast each round was as the same round of `base`, for rounds that
    both have and in which the clock moved.
    """
    return [a / b for a, b in zip(base, own, strict=False) if b > 0]


def is_unstable(samples: Sequence[float]) -> bool:
    """Return whether the median is known so badly that nothing should be compared with it."""
    found = median_interval(samples)
    return not (found.value > 0 and found.high - found.low <= UNSTABLE * found.value)


def middle_round(samples: Sequence[ImageSample], kind: Kind) -> ImageSample:
    """Return the round with the median time (of an even number, the faster of the two in the
    middle): its stages are those of a real image, and add up.
    """
    order = sorted(samples, key=lambda one: times([one], kind)[0])
    return order[(len(order) - 1) // 2]


def times(samples: Sequence[ImageSample], kind: Kind) -> list[float]:
    """Return the milliseconds of each round."""
    if kind == "cpu":
        return [one.whole.cpu_ms for one in samples]
    return [one.whole.wall_ms for one in samples]
