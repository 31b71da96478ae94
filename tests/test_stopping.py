"""The stopping rule: it goes on while looks get better, ends in noise and at the first memory, and
a resume changes nothing.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes_of import images, noisy, shapes

from edgegen.core.verdict import Interval
from edgegen.errors import EdgegenError, InputError
from edgegen.evidence.memory import Limits, memory
from edgegen.evidence.small_sample_distance import Distance, kernel
from edgegen.evidence.stopping import Look, Rule, Watch

FINE, TOLD = Interval(0.5, 0.4, 0.6), Interval(0.57, 0.52, 0.62)


class Series:
    """Looks at a training whose true distances are given; images and photos vary, most of it in
    common from look to look.
    """

    def __init__(self, seed: int, own: float = 0.3) -> None:
        self.rng = np.random.default_rng(seed)
        self.made, self.held, self.own = (
            self.rng.normal(size=200),
            2 * self.rng.normal(size=60),
            own,
        )

    def distance(self, truth: float) -> Distance:
        made, held = (
            common + self.own * self.rng.normal(size=len(common))
            for common in (self.made, self.held)
        )
        return Distance(truth + made.mean() + held.mean(), made - made.mean(), held - held.mean())

    def watch(
        self,
        truths: list[float],
        rule: Rule | None = None,
        copies: dict[int, int] | None = None,
        novelty: dict[int, float] | None = None,
    ) -> list[Watch]:
        """After each look, until it says stop."""
        watch, seen = Watch(rule or Rule(patience=3)), []
        for k, truth in enumerate(truths):
            distance = self.distance(truth)
            ratio = (novelty or {}).get(k, 1.0)
            look = Look(
                100 * k,
                distance.interval(),
                (copies or {}).get(k, 0),
                ratio,
                FINE if ratio == 1 else TOLD,
            )
            watch = watch.add(look, distance)
            seen.append(watch)
            if watch.decision.stop:
                break
        return seen


@settings(deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(0.2, 2), min_size=2, max_size=12))
def test_it_goes_on_while_looks_get_better(seed: int, falls: list[float]) -> None:
    truths = list(10 - np.cumsum(falls))
    seen = Series(seed, own=0.02).watch(truths)
    assert len(seen) == len(truths) and not seen[-1].decision.stop
    assert seen[-1].decision.best == seen[-1].looks[-1].step


def test_small_steps_down_add_up() -> None:
    stopped = 0
    for seed in range(40):  # a step is half of what a single comparison can tell
        seen = Series(seed).watch(list(5 - 0.06 * np.arange(25)), Rule(patience=5))
        stopped += len(seen) < 25
    assert stopped <= 4


def test_noise_alone_ends_it() -> None:
    lengths = [len(Series(seed).watch([1.0] * 40)) for seed in range(100)]
    assert min(lengths) == 4 and np.mean(lengths) < 8 and max(lengths) < 25
    seen = Series(0).watch([1.0] * 40)[-1]
    assert seen.decision.state == "no better"
    assert seen.decision.why.startswith("3 looks since step ") and seen.decision.why.endswith(
        "were not better beyond noise"
    )


def test_the_best_is_the_lowest() -> None:
    seen = Series(3, own=0.01).watch([5, 3, 2, 2.5, 3, 3.5, 4])[-1]
    assert seen.decision.state == "no better" and seen.decision.best == 200 and len(seen.looks) == 6


@given(st.integers(1, 8), st.integers(0, 10**6), st.sampled_from(["copies", "novelty", "both"]))
@settings(deadline=None)
def test_memory_ends_it_at_once_and_is_never_the_best(at: int, seed: int, how: str) -> None:
    seen = Series(seed, own=0.01).watch(
        list(10.0 - np.arange(12)),
        copies={at: 2} if how != "novelty" else None,
        novelty={at: 0.4} if how != "copies" else None,
    )[-1]
    assert seen.decision.state == "remembers" and len(seen.looks) == at + 1
    assert seen.decision.best == 100 * (at - 1), "the lowest distance is that of the copies"
    assert f"step {100 * at}: " in seen.decision.why


def test_nothing_is_best_when_all_remember() -> None:
    seen = Series(0).watch([1.0], copies={0: 1})[-1]
    assert seen.decision.stop and seen.decision.best is None
    assert (
        Series(0).watch([1.0], Rule(limits=Limits(near_copies=1)), copies={0: 1})[-1].decision.best
        == 0
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.lists(st.floats(0, 3), min_size=2, max_size=10), st.data())
def test_a_resumed_run_decides_the_same(
    seed: int, truths: list[float], data: st.DataObject
) -> None:
    rule = Rule(patience=100)
    whole = Series(seed).watch(truths, rule)[-1]
    cut = data.draw(st.integers(0, len(truths)))
    series, watch = Series(seed), Watch(rule)
    for k, truth in enumerate(truths):
        distance = series.distance(truth)
        if k == cut:
            watch = Watch.from_json(json.loads(json.dumps(watch.to_json())))
        watch = watch.add(Look(100 * k, distance.interval(), 0, 1.0, FINE), distance)
    assert watch.decision == whole.decision and watch.to_json() == whole.to_json()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.lists(st.floats(0, 3), min_size=2, max_size=10), st.integers(-1, 1000)
)
def test_going_back_is_as_if_later_looks_had_not_been(
    seed: int, truths: list[float], step: int
) -> None:
    seen = Series(seed).watch(truths, Rule(patience=100))
    before = [watch for watch in seen if watch.looks[-1].step <= step]
    wanted = before[-1] if before else Watch(Rule(patience=100))
    assert seen[-1].rewind(step).to_json() == wanted.to_json()


def test_a_look_is_made_of_what_was_measured() -> None:
    train, held, new = (images(shapes(n, k)) for n, k in ((80, 1), (30, 2), (60, 3)))
    copies = images(noisy(train.pixels[:60], 2))
    watch = Watch()
    for step, made in ((0, new), (50, copies)):
        watch = watch.look(step, kernel(made.features, held.features), memory(made, train, held))
    assert watch.looks[0].near_copies == 0 and watch.looks[1].near_copies == 60
    assert watch.decision.state == "remembers" and watch.decision.best == 0
    assert watch.looks[1].kid == kernel(copies.features, held.features).interval()


def test_before_the_first_look_it_goes_on() -> None:
    assert Watch().decision.state == "go on" and Watch().decision.best is None
    assert Watch.from_json(Watch().to_json()).to_json() == Watch().to_json()


def test_wrong_looks_and_rules_are_refused() -> None:
    series = Series(0)
    watch = series.watch([1.0])[-1]
    with pytest.raises(ValueError, match="looks go forward: step 0 after step 0"):
        watch.add(watch.looks[0], series.distance(1))
    with pytest.raises(ValueError, match="same seeds and photos"):
        watch.add(Look(9, FINE, 0, 1, FINE), Distance(1.0, np.ones(9), np.ones(9)))
    with pytest.raises(EdgegenError, match=r"E-NONFINITE.*step 3"):
        Look(3, FINE, 0, math.nan, FINE)
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        Look(3, Interval(1, math.nan, 2), 0, 1.0, FINE)
    for wrong in ({"patience": 0}, {"level": 1.0}):
        with pytest.raises(ValueError, match="a rule needs"):
            Rule(**wrong)


def broken(data: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(data))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


def test_a_damaged_record_is_refused() -> None:
    good = Series(0, own=0.01).watch([3.0, 2.0, 1.0])[-1].to_json()
    damaged = [
        {},
        broken(good, "version", value=9),
        broken(good, "looks", value=None),
        broken(good, "rule", value={}),
        broken(good, "looks", 1, "step", value=0),
        broken(good, "looks", 0, "kid", "low", value=math.nan),
        broken(good, "marks", value=[]),
        broken(good, "marks", 2, "look", value=3),
        broken(good, "marks", 0, "made", value=[1]),
        broken(good, "rule", "patience", value=0),
        broken(good, "looks", 0, "extra", value=1),
    ]
    for data in damaged:
        with pytest.raises(InputError, match=r"E-WATCH.*not a usable record of looks"):
            Watch.from_json(data)
