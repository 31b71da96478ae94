"""Plan what an export does in the time that it is given (`--time`): how many seeds it calibrates
on, how long it searches for a plan and how many pairs its verdict compares.

The unit of every price is one image on this machine, because calibration, damages, glances and
verdict all consist of images of the same generator.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ...calibrate.observe import ENOUGH
from ...calibrate.predict import CHECKED
from ...core.files import JsonObject
from ...errors import UsageError
from ...evidence.terms import FEWEST_PAIRS, MOST_PAIRS, PIXEL_PAIRS, Terms
from ..durations import in_words
from .prices import Prices
from .search_settings import SearchSettings

FEWEST_SEEDS = ENOUGH  # least seeds that a calibration has at each timestep
# shares of time: of all of it, then of what calibration leaves
CALIBRATION, SEARCH, VERDICT = 0.2, 0.4, 0.5
# share of what calibration leaves, for a verdict whose pairs would otherwise be too few
MOST_VERDICT = 0.75
SLACK = 0.95  # share of the time that is planned; the rest is reserve
# shares of a search's time
TIMING, DAMAGES, GLANCES = 0.3, 0.3, 0.1
ROUNDS, ALONE, GLANCED, CALLS, CHECKS = (5, 16), (4, 16), (8, 64), (1, 4), (3, CHECKED)
FEWEST_GROUPS = 8  # groups of layers whose damage is measured
# images of a timed batch; the first that leaves time for enough rounds is taken
TIMED = (8, 4, 2, 1)
WARM_UP = 2  # rounds whose times are dropped


@dataclass(frozen=True)
class Work:
    """Count what an export has to do.

    `graphs` graphs have `layers` layers of `kinds` kinds that may run in INT8; `calls` counts calls
    of graphs in one trajectory. `seeds` and `pairs` are upper limits, `fewest` is the least number
    of pairs whose pixels can show what is asked.
    """

    graphs: int
    layers: int
    kinds: int
    calls: int
    runtimes: int
    seeds: int
    pairs: int
    fewest: int
    threads: int


@dataclass(frozen=True)
class Allowance:
    """Say how much of everything an export does; `expected` holds seconds by step."""

    seeds: int
    pairs: int
    pixels: int  # number of pairs whose pixels are compared
    search_seconds: float  # for each runtime
    expected: Mapping[str, float]

    def bound(self, terms: Terms) -> Terms:
        """Return the terms of a verdict with at most this allowance's pairs."""
        usual = self.pixels == PIXEL_PAIRS * self.pairs
        return replace(terms, maximum=self.pairs, pixels=0 if usual else self.pixels)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {in_words(s)}" for name, s in self.expected.items())
        return (
            f"in the time that is left: calibration on {self.seeds} seeds, a verdict of at most "
            f"{self.pairs} pairs and the pixels of {self.pixels}; at most {parts}"
        )


def allowance(seconds: float, prices: Prices, work: Work, spent: float = 0.0) -> Allowance:
    """Return what fits into `seconds`, which begin after the `spent` ones.

    Raises UsageError (E-TIME), with the least time that is needed, if not even the fewest seeds and
    pairs fit.
    """
    planned, least_pairs = SLACK * seconds, min(FEWEST_PAIRS, work.pairs)
    some = (CALIBRATION * planned - prices.start) / prices.seed
    for seeds in (_between(some, FEWEST_SEEDS, work.seeds), FEWEST_SEEDS):
        calibration = prices.start + seeds * prices.seed
        share = (planned - calibration) / work.runtimes
        pairs = int(min(VERDICT * share / prices.verdict(1, PIXEL_PAIRS), work.pairs))
        pixels = PIXEL_PAIRS * pairs
        if pairs >= least_pairs and pixels >= work.fewest:
            break
        # take the fewest features, and as many pixels as the search can give time for
        pairs = least_pairs
        if prices.pixels(pairs, MOST_VERDICT * share) >= work.fewest:
            pixels = max(prices.pixels(pairs, VERDICT * share), work.fewest)
            break
    else:
        verdicts = prices.verdict(least_pairs, work.fewest) / MOST_VERDICT * work.runtimes
        least = (prices.start + FEWEST_SEEDS * prices.seed + verdicts) / SLACK
        # the steps before planning sometimes take longer
        minutes = math.ceil((spent + least) / 60) + 1
        raise UsageError(
            "E-TIME",
            f"in the {in_words(max(seconds, 0))} that are left, this machine cannot calibrate on "
            f"{FEWEST_SEEDS} seeds and compare {work.fewest} pairs of images. One image takes "
            f"{prices.image:.3g} s: that needs {in_words(60 * math.ceil(least / 60))}",
            hint=f"give --time {minutes}m, a larger --max-ruined, which fewer pairs can show, "
            "fewer runtimes, or fewer --steps",
        )
    # a verdict that needs less than its share leaves the rest to the search
    verdict = prices.verdict(pairs, pixels)
    search = share * (SEARCH + VERDICT) - verdict
    expected = {
        "calibration": calibration,
        "search": search * work.runtimes,
        "verdict": verdict * work.runtimes,
    }
    return Allowance(seeds, pairs, min(pixels, MOST_PAIRS), search, expected)


def within(
    settings: SearchSettings, allowed: Allowance, prices: Prices, work: Work
) -> SearchSettings:
    """Return the settings with as many rounds, images and layers as the search has time for."""
    seconds, image, plan = allowed.search_seconds, max(prices.image, 1e-6), prices.plan
    call = image / max(work.calls, 1)
    timing = _timing(TIMING * seconds, work.threads * call, plan, max(work.kinds, 1))
    whole = DAMAGES * seconds >= work.layers * (settings.images_alone * image + plan)
    # if damages are predicted, half of the time measures layers and half measures all errors
    half, graphs, layers = DAMAGES * seconds / 2, max(work.graphs, 1), max(work.layers, 1)
    checked = _between(half / (graphs * (ALONE[0] * image + plan)), *CHECKS)
    alone = _between((half / (graphs * checked) - plan) / image, *ALONE)
    error = timing.images * call
    groups = _between(half / (error + plan), FEWEST_GROUPS, max(layers, FEWEST_GROUPS))
    return replace(
        settings,
        seconds=seconds,
        rounds=timing.rounds,
        images_timed=timing.images,
        kinds_timed=timing.kinds,
        images_alone=settings.images_alone if whole else alone,
        layers_checked=checked,
        calls_alone=_between((half / min(groups, layers) - plan) / error, *CALLS),
        groups=None if whole or groups >= layers else groups,
        images_glanced=_between(GLANCES * seconds / (4 * image), *GLANCED),
        whole_work=settings.whole_work if whole else 0.0,
    )


@dataclass(frozen=True)
class _Timing:
    """Say for how many kinds of layers the time saved is measured, in how many rounds, with how
    many images in a batch.
    """

    rounds: int
    images: int
    kinds: int


def _timing(seconds: float, call: float, plan: float, kinds: int) -> _Timing:
    """Return what fits into `seconds`. `call` is the seconds of a graph for one image on one
    thread, `plan` those that turn a plan into a session.
    """
    least = ROUNDS[0] + WARM_UP
    # twice a call, because each candidate is timed beside a graph with all layers in INT8
    enough = (n for n in TIMED if seconds >= kinds * (plan + 2 * call * n * least))
    images = next(enough, TIMED[-1])
    turn = 2 * call * images
    rounds = _between((seconds / kinds - plan) / turn - WARM_UP, *ROUNDS)
    return _Timing(rounds, images, _between(seconds / (plan + turn * least), 1, kinds))


def _between(value: float, least: int, most: int) -> int:
    return int(max(least, min(value, most)))


@dataclass
class Stopwatch:
    """Measure the seconds of an export's steps; `seconds` limits all of it, None does not."""

    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)
    took: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.took[name] = self.took.get(name, 0.0) + time.monotonic() - begun

    @property
    def left(self) -> float:
        if self.seconds is None:
            return float("inf")
        return self.seconds - (time.monotonic() - self.started)

    def __str__(self) -> str:
        return ", ".join(f"{name} {in_words(seconds)}" for name, seconds in self.took.items())

    def to_json(self) -> JsonObject:
        return {name: round(seconds, 1) for name, seconds in self.took.items()}
