"""What an export does in the time that it is given."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.bundle import Bundle
from edgegen.errors import UsageError
from edgegen.evidence.terms import FEWEST_PAIRS, Terms
from edgegen.export import runtime
from edgegen.workflows import recheck
from edgegen.workflows.context import Context
from edgegen.workflows.durations import in_words, seconds_of
from edgegen.workflows.export.allowance import (
    FEWEST_SEEDS,
    WARM_UP,
    Stopwatch,
    Work,
    allowance,
    within,
)
from edgegen.workflows.export.prices import Prices, measured_prices
from edgegen.workflows.export.search_settings import SearchSettings
from edgegen.workflows.generators import load_generator
from edgegen.workflows.sampling_choices import SamplingChoices, chosen

WORK = Work(
    graphs=2, layers=95, kinds=30, calls=40, runtimes=2, seeds=128, pairs=4000, fewest=64, threads=1
)
FAST, SLOW = Prices(0.01, 0.005, 0.1, 0.08, 10.0), Prices(10.0, 0.05, 0.0, 80.0, 10.0)


def test_an_hour_is_enough_for_all_of_a_small_model() -> None:
    allowed = allowance(3600, FAST, WORK)
    assert (allowed.seeds, allowed.pairs) == (128, 4000)
    assert allowed.search_seconds > 600, "what the verdict leaves is the search's"


def test_a_large_model_is_calibrated_and_judged_on_less() -> None:
    allowed = allowance(12 * 3600, SLOW, WORK)
    assert allowed.seeds < 128 and FEWEST_PAIRS <= allowed.pairs < 4000


@given(st.floats(0.001, 30), st.floats(0.001, 1), st.integers(1, 3), st.floats(60, 1e6))
def test_what_is_planned_fits_or_is_refused(
    image: float, features: float, runtimes: int, seconds: float
) -> None:
    prices = Prices(image, features, 0.1, 8 * image, 10.0)
    work = Work(1, 40, 12, 10, runtimes, 128, 4000, 64, 1)
    try:
        allowed = allowance(seconds, prices, work)
    except UsageError as error:
        assert error.code == "E-TIME" and "that needs" in error.message
        least = 10 + FEWEST_SEEDS * prices.seed + prices.verdict(64, 64) / 0.75 * runtimes
        assert seconds < 1.1 * least / 0.95, "what fits is not refused"
        return
    assert sum(allowed.expected.values()) <= seconds
    assert FEWEST_SEEDS <= allowed.seeds <= 128 and FEWEST_PAIRS <= allowed.pairs <= 4000
    assert allowed.search_seconds > 0 and all(part > 0 for part in allowed.expected.values())
    more = allowance(2 * seconds, prices, work)
    assert more.seeds >= allowed.seeds and more.pairs >= allowed.pairs


def test_what_is_not_enough_says_what_is() -> None:
    with pytest.raises(
        UsageError, match=r"in the 10 min that are left, .* that needs (.*)$"
    ) as error:
        allowance(600, SLOW, WORK)
    said = error.value.message.split("needs ")[1]
    hours, _, minutes = said.partition(" h ")
    least = int(hours) * 3600 + int(minutes.removesuffix(" min") or 0) * 60
    assert allowance(least, SLOW, WORK).pairs >= FEWEST_PAIRS
    with pytest.raises(UsageError):
        allowance(least - 120, SLOW, WORK)
    with pytest.raises(UsageError) as error:
        allowance(600, SLOW, WORK, spent=3600)
    asked = int(error.value.hint.removeprefix("give --time ").split("m,")[0])
    assert asked * 60 >= least + 3600, "with what was spent already"


def test_a_search_in_little_time_looks_less_closely() -> None:
    settings = SearchSettings(Terms(0.02, 4000))
    plenty = within(settings, allowance(1e5, FAST, WORK), FAST, WORK)
    assert (plenty.rounds, plenty.images_alone, plenty.images_glanced) == (16, 16, 64)
    assert (plenty.images_timed, plenty.kinds_timed, plenty.calls_alone) == (8, 30, 4)
    assert plenty.whole_work == settings.whole_work and math.isfinite(plenty.seconds)
    scarce = within(settings, allowance(20 * 3600, SLOW, WORK), SLOW, WORK)
    assert scarce.whole_work == 0, "damages are predicted"


@given(
    st.floats(0.05, 60),
    st.integers(1, 60),
    st.integers(10, 600),
    st.integers(1, 4),
    st.floats(0, 20),
    st.floats(120, 1e5),
)
def test_what_a_search_asks_of_layers_fits_into_its_time(
    image: float, calls: int, layers: int, threads: int, plan: float, seconds: float
) -> None:
    """Or is the least that says anything."""
    prices = Prices(image, 0.05, plan, 8 * image, 10.0)
    work = Work(1, layers, -(-layers // 3), calls, 1, 128, 4000, 64, threads)
    try:
        allowed = allowance(seconds, prices, work)
    except UsageError:
        return
    found = within(SearchSettings(Terms(0.02, 4000)), allowed, prices, work)
    call, search = image / calls, allowed.search_seconds
    turns, kinds = found.rounds + WARM_UP, found.kinds_timed or 0
    timing = kinds * (plan + 2 * turns * found.images_timed * call * threads)
    assert timing <= 0.3 * search * 1.001 or kinds == 1
    if found.whole_work:
        assert layers * (found.images_alone * image + plan) <= 0.3 * search * 1.001
        return
    units = found.groups or layers
    errors = units * (found.calls_alone * found.images_timed * call + plan)
    assert errors <= 0.15 * search * 1.001 or (found.calls_alone == 1 and units <= 8)
    checked = found.layers_checked * (found.images_alone * image + plan)
    assert checked <= 0.15 * search * 1.001 or found.layers_checked == 3


def test_a_verdict_has_the_pairs_that_can_show_what_is_asked_or_the_way_out_is_said() -> None:
    """Fewer would say nothing, whatever the images are: a search gives way to them."""
    terms = Terms(0.02, 4000, ruined=0.01)
    assert terms.fewest == 412 and Terms(0.02, 4000, ruined=0.5).fewest == FEWEST_PAIRS
    work, seconds = replace(WORK, fewest=terms.fewest, runtimes=1), 4 * 3600
    free, bound = (allowance(seconds, SLOW, w) for w in (replace(work, fewest=64), work))
    assert free.pixels < 412 == bound.pixels and free.pairs == bound.pairs == 64
    assert 0 < bound.search_seconds < free.search_seconds
    found = bound.bound(terms)
    found.check_enough()
    assert (found.maximum, found.pixel_pairs) == (64, 412)
    assert recheck._terms({"terms": found.to_json()}) == found, "what a manifest says of it"
    with pytest.raises(UsageError, match="and compare 2066 pairs of images") as error:
        allowance(seconds, SLOW, replace(work, fewest=Terms(0.02, 4000).fewest))
    assert error.value.code == "E-TIME" and "a larger --max-ruined" in error.value.hint
    usual = allowance(1e6, SLOW, work).bound(terms)
    assert usual.pixels == 0 and "pixels" not in usual.to_json()


@pytest.mark.parametrize("pixels", [-1, 63, 10**7])
def test_pixels_that_no_verdict_has_are_refused(pixels: int) -> None:
    with pytest.raises(UsageError, match="the pixels are compared"):
        Terms(0.02, 64, pixels=pixels)


def test_a_stopwatch_adds_up_and_says_what_is_left() -> None:
    watch = Stopwatch(100.0)
    for _ in range(2):
        with watch.step("a"):
            time.sleep(0.02)
    assert 0.04 <= watch.took["a"] < 5 and 95 < watch.left < 100
    assert math.isinf(Stopwatch().left)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (184, "3 min"), (3590, "1 h"), (3700, "1 h 2 min")],
)
def test_times_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize("duration", ["", "5", "m", "-3m", "0s", "nanh", "1d"])
def test_what_is_no_time_is_refused(duration: str) -> None:
    with pytest.raises(UsageError, match="--time must be such as 90s, 45m or 2h"):
        seconds_of(duration)


@pytest.mark.slow
def test_a_price_is_of_as_many_steps_as_an_image_takes(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are the same for any number of steps, what an image costs is not."""
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    source = load_generator(str(tiny_run))
    asked: list[int] = []

    def price(steps: int) -> Prices:
        def pixels(first: int, last: int) -> None:
            asked.append(steps)

        side = SimpleNamespace(start=0, pixels=pixels, projected=lambda count: None)
        side.from_seed = lambda start: side
        generator = chosen(source, SamplingChoices(steps))[0]
        subject = SimpleNamespace(source=replace(source, generator=generator), fp32={})
        full: Any = SimpleNamespace(subject=subject, side=side, context=Context())
        full.loaded = lambda: None
        done: Any = SimpleNamespace(seed_s=0.0, start_s=0.0, as_files=lambda source, target: None)
        return measured_prices(full, runtime("onnxruntime"), done)

    first = price(2)
    assert price(2) == first and set(asked) == {2}, "noted"
    price(4)
    assert set(asked) == {2, 4}


@pytest.mark.slow
def test_an_export_keeps_its_time_and_says_what_it_expected(
    tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "timed"
    assert tiny.export(tiny_run, out, "--time", "30m", runtimes="onnxruntime") == 0
    said = capfd.readouterr().err
    assert "in the time that is left: calibration on" in said and "took FP32 graphs" in said
    told = Bundle.open(out).manifest.evidence["time"]
    assert told["allowed_s"] == 1800 and set(told["expected_s"]) <= set(told["took_s"])
    assert sum(told["took_s"].values()) < 1800
    refused = tmp_path / "refused"
    assert tiny.export(tiny_run, refused, "--time", "0.01s", runtimes="onnxruntime") == 2
    assert "E-TIME" in capfd.readouterr().err and not refused.exists()
