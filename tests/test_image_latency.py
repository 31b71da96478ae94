"""What a user waits for: stages that add up, rounds in turn, percentiles that are not invented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from benched import samples

from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.evidence import image_latency
from edgegen.evidence.bench_rows import latency_of
from edgegen.evidence.image_latency import (
    CONVERSION,
    GRAPH,
    REST,
    TEXT,
    Clock,
    ImageMaker,
    image_times,
    is_unstable,
    median_interval,
    percentile,
)


class Machine:
    """Whose clocks move when it is told to; wall time is twice the CPU time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: 2 * self.now)

    def spend(self, ms: float) -> None:
        self.now += ms / 1e3

    def maker(self, name: str, ms: float, text_ms: float = 0.0) -> ImageMaker:
        """The tiny generator whose graphs take so long."""
        latent = tiny.generator().latent

        def graph(channels: int) -> Any:
            def call(**inputs: Any) -> Any:
                self.calls.append(name)
                self.spend(ms)
                return np.zeros((len(inputs["x"]), channels, *inputs["x"].shape[2:]), np.float32)

            return call

        def encode() -> Any:
            self.spend(text_ms)
            return latent

        pipeline = Pipeline(latent, tiny.generator().sampler, {"theta": graph(3), "phi": graph(2)})
        return ImageMaker(pipeline, encode if text_ms else None)


def test_stages_add_up_to_the_whole_and_count_their_calls() -> None:
    machine = Machine()
    found = image_times({"a": machine.maker("a", 3.0, 5.0)}, [1, 2], 3, machine.clock)
    steps = len(tiny.generator().sampler.timesteps)
    for sample in found.samples["a"]:
        stages = sample.stages
        assert set(stages) == {TEXT, GRAPH + "theta", GRAPH + "phi", CONVERSION, REST}
        assert sum(one.cpu_ms for one in stages.values()) == pytest.approx(sample.whole.cpu_ms)
        assert sum(one.wall_ms for one in stages.values()) == pytest.approx(sample.whole.wall_ms)
        assert stages[TEXT].cpu_ms == pytest.approx(5) and stages[TEXT].calls == 1
        assert stages[GRAPH + "theta"].calls == steps
        assert stages[GRAPH + "theta"].cpu_ms == pytest.approx(3 * steps)
        assert sample.whole.wall_ms == pytest.approx(2 * sample.whole.cpu_ms)


def test_the_sampler_s_own_time_is_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    begin, convert = type(tiny.generator().latent).start, to_uint8

    def slow_start(self: Any, seeds: Any) -> Any:
        machine.spend(7)
        return begin(self, seeds)

    def slow_conversion(made: Any) -> Any:
        machine.spend(2)
        return convert(made)

    monkeypatch.setattr(type(tiny.generator().latent), "start", slow_start)
    monkeypatch.setattr(image_latency, "to_uint8", slow_conversion)
    (sample,) = image_times({"a": machine.maker("a", 1.0)}, [1], 1, machine.clock).samples["a"]
    assert sample.stages[REST].cpu_ms == pytest.approx(7)
    assert sample.stages[CONVERSION].cpu_ms == pytest.approx(2)


def test_candidates_are_timed_in_turn_each_after_its_own_first_calls() -> None:
    machine = Machine()
    makers = {name: machine.maker(name, 1.0) for name in "ab"}
    found = image_times(makers, [1], 2, machine.clock, warm_up=1)
    whole = 2 * len(tiny.generator().sampler.timesteps)
    first = ["a"] * whole + ["b"] * whole
    later = ["a"] * (2 + whole) + ["b"] * (2 + whole)  # a call of each graph that is not timed
    assert machine.calls == first + 2 * later
    assert [len(rounds) for rounds in found.samples.values()] == [2, 2]
    assert all(one.whole.cpu_ms == pytest.approx(whole) for one in found.samples["a"])


def test_one_that_fails_is_left_out_and_the_others_go_on() -> None:
    machine = Machine()
    makers = {name: machine.maker(name, 1.0) for name in "abc"}
    good, calls = makers["b"].pipeline.call["theta"], 0

    def breaks(**inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise RuntimeError("the  engine\nis gone")
        return good(**inputs)

    broken = Pipeline(
        makers["b"].pipeline.latent,
        makers["b"].pipeline.sampler,
        {**makers["b"].pipeline.call, "theta": breaks},
    )
    found = image_times({**makers, "b": ImageMaker(broken)}, [1], 4, machine.clock)
    assert found.failed == {"b": "the engine is gone"}
    assert {name: len(rounds) for name, rounds in found.samples.items()} == {"a": 4, "c": 4}


def test_images_that_are_no_numbers_are_a_failure() -> None:
    machine = Machine()
    maker = machine.maker("a", 1.0)

    def broken(**inputs: Any) -> Any:
        return inputs["x"] * np.nan

    call = {**maker.pipeline.call, "theta": broken}
    pipeline = Pipeline(maker.pipeline.latent, maker.pipeline.sampler, call)
    found = image_times({"a": ImageMaker(pipeline)}, [1], 2, machine.clock)
    assert "NaN" in found.failed["a"] and not found.samples


@pytest.mark.parametrize(("share", "enough"), [(0.5, 2), (0.9, 10), (0.99, 100), (0.999, 1000)])
def test_a_percentile_that_cannot_be_resolved_is_none(share: float, enough: int) -> None:
    values = np.arange(enough, dtype=float).tolist()
    assert percentile(values[:-1], share) is None
    assert percentile(values, share) == pytest.approx(share * (enough - 1))


@pytest.mark.parametrize(
    ("rounds", "left_out"), [(5, 0), (6, 0), (8, 0), (9, 1), (25, 7), (100, 39)]
)
def test_the_interval_of_a_median_is_that_of_order_statistics(rounds: int, left_out: int) -> None:
    """As tables of the sign test have it: of 25 the 8th to the 18th."""
    values = np.random.default_rng(0).permutation(rounds).astype(float).tolist()
    found = median_interval(values)
    assert (found.low, found.high) == (left_out, rounds - 1 - left_out)
    assert found.value == (rounds - 1) / 2


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    draws = np.random.default_rng(1).lognormal(size=(1000, 25))
    held = [one.low <= 1 <= one.high for one in map(median_interval, draws.tolist())]
    assert 0.94 < np.mean(held) < 0.98


def test_what_scatters_is_unstable_and_more_rounds_make_up_for_it() -> None:
    assert not is_unstable([10.0] * 20)
    few, many = (np.linspace(9, 11, rounds).tolist() for rounds in (25, 400))
    assert not is_unstable(few), "the 8th to the 18th of 25 are 8 % apart"
    few, many = (np.linspace(8, 12, rounds).tolist() for rounds in (25, 400))
    assert is_unstable(few) and not is_unstable(many)
    # a few that are far away say nothing of the others
    assert not is_unstable([10.0] * 18 + [100.0] * 2)
    assert is_unstable([0.0] * 20), "a clock that does not move"


def test_a_latency_keeps_its_samples_and_the_stages_of_its_middle() -> None:
    rounds = samples(10.0, 0.04, 12)
    made = latency_of(rounds, 8, 2, "cpu")
    assert (made.batch, made.threads, made.rounds) == (8, 2, 12)
    assert made.samples.cpu_ms == [one.whole.cpu_ms for one in rounds]
    assert made.cpu.p50 == pytest.approx(10) and made.cpu.p99 is None
    assert made.images_per_second == pytest.approx(1e3 * 8 / made.wall.p50)
    whole = sum(one.cpu_ms for one in made.stages)
    assert whole in made.samples.cpu_ms and whole == pytest.approx(made.cpu.p50, rel=0.01)
    assert [one.calls for one in made.stages] == [4, 1]


def test_a_row_is_unstable_by_the_clock_that_is_compared() -> None:
    rounds = samples(10.0, 0.5)
    steady = [
        image_latency.ImageSample(image_latency.Spent(10.0, one.whole.wall_ms), one.stages)
        for one in rounds
    ]
    assert not latency_of(steady, 1, 1, "cpu").unstable
    assert latency_of(steady, 1, 1, "wall").unstable
