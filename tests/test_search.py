"""The search goes on where it was stopped, is the same twice, and gives way when the verdict
contradicts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from searches import Watched, answers, elsewhere, hurried, made

from edgegen.calibrate.choose import Whole, cost, kinds, multiplications
from edgegen.calibrate.questions import TIE
from edgegen.core.plan import Plan
from edgegen.evidence import bench
from edgegen.evidence.terms import Terms
from edgegen.export import executing, runtime
from edgegen.workflows.context import Context
from edgegen.workflows.export.damages import STEP as DAMAGE
from edgegen.workflows.export.layer_times import LayerTimes
from edgegen.workflows.export.measurements import FullPrecision, SearchSubject
from edgegen.workflows.export.search import (
    COUNTED,
    GLANCES,
    LOOKS,
    MEASURED,
    TIMING,
    PlanLadder,
    Search,
)
from edgegen.workflows.export.search_settings import SearchSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def search(tiny_run: Path) -> Search:
    return made(tiny_run)


@pytest.fixture(autouse=True)
def own_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))


def test_what_was_stopped_goes_on_and_what_is_done_twice_is_the_same(search: Search) -> None:
    target = runtime("onnxruntime")
    # times that are measured vary, and with them how much there is to look at
    told = answers(lambda plan: sum(precision == "fp32" for _, precision in plan.rules) > 6)
    first = Watched(search, told, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        first.plan(target)
    assert first.calls["damages"] > 1 and first.calls["time_saved"] == 1
    assert first.calls["psnr"] >= 1 and first.calls["look"] == 2
    second = Watched(search, told)
    found = second.plan(target)
    assert second.calls.pop("look") >= 1 and not any(second.calls.values())
    third = Watched(search, told)
    assert third.plan(target).plan.to_bytes() == found.plan.to_bytes()
    assert not any(third.calls.values()) and third.trail == second.trail
    bill, again = second.bills[target.name].to_json(), third.bills[target.name].to_json()
    assert bill == again, "what it took is noted with the answers"
    assert bill["damages"] == "each along whole trajectories"
    steps = {step["step"]: step for step in bill["steps"]}
    assert list(steps) == [TIMING, DAMAGE, GLANCES, LOOKS]
    assert steps[DAMAGE]["asked"] == first.calls["damages"]
    assert steps[LOOKS]["expected_s"] is not None and steps[TIMING]["expected_s"] is None
    assert found.plan.unit == MEASURED.format(images=8)
    assert {layer.precision for layer in found.plan.layers} <= {"int8", "fp32"}


def test_a_search_does_nothing_before_it_is_asked() -> None:
    """Nothing is read, loaded or run: these settings belong to no generator at all."""
    nothing: Any = SimpleNamespace()
    assert Search(nothing, nothing, nothing).trail == {}


@pytest.mark.parametrize(("pairs", "looked"), [(500, 2_000), (4_000, 2_000), (10_000, 5_000)])
def test_more_pairs_for_the_verdict_are_more_for_the_search(
    tiny_run: Path, pairs: int, looked: int
) -> None:
    """A plan that the verdict could tell from the budget is not left for a slower one."""
    source: Any = SimpleNamespace(reference=tiny_run / "reference.safetensors")
    full = FullPrecision(
        SearchSubject(source, {}, {}, Plan((), {})),
        SearchSettings(Terms(0.3, pairs, 1.0)),
        Context(),
    )
    assert full.most_pairs == looked


@pytest.mark.parametrize(("pairs", "ruined"), [(83, 0.01), (108, 0.01), (500, 0.002)])
def test_a_plan_as_good_as_full_precision_is_taken_however_few_pairs_there_are(
    search: Search, monkeypatch: pytest.MonkeyPatch, pairs: int, ruined: float
) -> None:
    """None ruined of so few leaves more doubt than a plan may: with safer ones too, so that each
    was refused and nearly everything kept in FP32.
    """
    settings = SearchSettings(replace(search.settings.terms, maximum=pairs, ruined=ruined))
    settings.terms.check_enough()
    one = Search(search.subject, settings, search.context)
    measure, full = one.measurements(runtime("onnxruntime")), one.full.pipeline

    def answer(damage: int) -> dict[str, Any]:
        def images(seeds: Any) -> np.ndarray:
            return np.roll(full(seeds), damage, -1)

        monkeypatch.setattr(measure, "pipeline", lambda plan: images)
        return measure.look(search.subject.base, lambda *_: None)

    equal, other = answer(0), answer(5)
    assert equal["enough"] <= equal["likely"] < 0.9 and equal["enough"] < 0.9
    assert other["likely"] < other["enough"]


def test_notes_are_found_by_another_process(search: Search, tiny_run: Path) -> None:
    """Whatever order its sets come in: hashes of text differ from process to process."""
    code = (
        "import sys\nfrom searches import made\nfrom edgegen.export import runtime\nfrom "
        "pathlib import Path\n"
        "host = runtime('onnxruntime')\nprint(made(Path(sys.argv[1])).key(host, host))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
    )
    host = runtime("onnxruntime")
    assert done.stdout.strip() == search.key(host, host)


@pytest.mark.parametrize(
    "changed",
    [
        {"doubt": 0.2},
        {"hope": 0.2},
        {"rounds": 8},
        {"last_steps": 0},
        {"terms": Terms(0.3, 500, 2.0)},
        {"images_alone": 8},
        {"whole_work": 1.0},
    ],
)
def test_other_settings_have_other_notes(search: Search, changed: dict[str, Any]) -> None:
    other = Search(search.subject, replace(search.settings, **changed), search.context)
    host = runtime("onnxruntime")
    assert other.key(host, host) != search.key(host, host)


def test_answers_are_as_good_whatever_time_there_is(search: Search) -> None:
    hurried = Search(search.subject, replace(search.settings, seconds=60.0), search.context)
    host = runtime("onnxruntime")
    assert hurried.key(host, host) == search.key(host, host)


def test_a_search_without_time_takes_the_safest_plan_and_says_what_it_did_not_ask(
    search: Search,
) -> None:
    told = answers(lambda plan: True)
    target = runtime("onnxruntime")

    def glance(plan: Plan) -> float:
        time.sleep(0.01)
        return 99.0

    watched = hurried(search, 0.0, told | {"psnr": glance})
    found = watched.plan(target)
    assert watched.calls["look"] == 0 and found.rung == len(found.plans) - 1
    unasked = watched.bills[target.name].to_json()["unasked"]
    assert any("would be needed and 0 s are left" in one["why"] for one in unasked)
    assert all("layers in FP32" in one["plan"] for one in unasked)
    generous = hurried(search, 1e6, told)
    assert generous.plan(target).rung == 0 and generous.calls["look"] >= 1


def test_a_runtime_that_does_not_run_here_is_weighed_by_multiplications(search: Search) -> None:
    watched = Watched(search)
    target = elsewhere(cannot_run=lambda: "no such card")
    found = watched.plan(target)
    assert watched.calls["time_saved"] == 0 and found.plan.unit == COUNTED
    assert all(
        layer.saved == pytest.approx(layer.multiplications / 1e6) for layer in found.plan.layers
    )
    assert all(look["executed_by"] == executing(target).name for look in watched.trail["elsewhere"])


def test_convolutions_of_one_kind_are_timed_once(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = search.measurements(runtime("onnxruntime"))
    timed: list[str] = []

    def slower(base: Any, candidates: Any, inputs: Any, rounds: int) -> dict[str, Any]:
        timed.extend(candidates)
        return {name: np.full(rounds, 1.0 + len(timed)) for name in candidates}

    monkeypatch.setattr(bench, "slower", slower)
    open_to_int8 = [(g, n) for g, m in search.subject.calibrated.items() for n in kinds(m)]
    saved = dict(
        zip(open_to_int8, measure.time_saved(open_to_int8, lambda more: None), strict=True)
    )
    assert len(saved) == len(open_to_int8) > len(timed)
    for graph, model in search.subject.calibrated.items():
        of_kind: dict[str, set[float]] = {}
        for node, kind in kinds(model).items():
            of_kind.setdefault(kind, set()).add(saved[graph, node])
        assert all(len(times) == 1 for times in of_kind.values())


def test_kinds_that_there_is_no_time_for_save_what_their_multiplications_say(
    search: Search,
) -> None:
    models, least = search.subject.calibrated, 1e-3
    layers = [(graph, node) for graph, model in models.items() for node in kinds(model)]
    calls = {graph: len(recorded) for graph, recorded in search.full.recorded.items()}
    timed: list[tuple[str, str]] = []

    def ten(graph: str, nodes: Sequence[str]) -> dict[str, float]:
        timed.extend((graph, node) for node in nodes)
        return dict.fromkeys(nodes, 10.0)

    def work(graph: str, node: str) -> int:
        return multiplications(models[graph])[node] * calls[graph]

    def kind(graph: str, node: str) -> tuple[str, str]:
        return graph, kinds(models[graph])[node]

    saved = LayerTimes(models, calls, ten, 1, least).saved(layers, lambda more: None)
    (one,) = timed
    of_kind = dict.fromkeys((kind(*layer) for layer in layers), 0)
    for layer in layers:
        of_kind[kind(*layer)] += work(*layer)
    assert of_kind[kind(*one)] == max(of_kind.values()), "the kind with most to do"
    for layer, ms in zip(layers, saved, strict=True):
        same = kind(*layer) == kind(*one)
        assert ms == pytest.approx(10.0 if same else max(10 * work(*layer) / work(*one), least))


def test_the_last_step_in_full_precision_is_weighed_with_all_plans(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where INT8 costs images only at the last step, the plan that leaves that one to FP32 is the
    only good one.
    """
    steps = len(search.subject.source.generator.sampler.timesteps)
    graphs = dict.fromkeys(search.subject.calibrated, Whole(10.0, 30.0, steps))

    def plans(good: Callable[[Plan], bool], fp32_ms: float = 30.0) -> PlanLadder:
        cache = tmp_path / str(len(list(tmp_path.iterdir())))
        cache.mkdir()
        monkeypatch.setenv("EDGEGEN_CACHE", str(cache))
        return Watched(search, answers(good, fp32_ms)).plan(runtime("onnxruntime"))

    found = plans(lambda plan: plan.last == 1)
    assert found.plan.last == 1 and found.rung == 0, (
        "everything else in INT8 is good, so the fastest is"
    )
    assert found.safer() and found.plan.last == 1
    found = plans(lambda plan: True)
    assert found.plan.last == 0 and found.rung == 0
    assert cost(found.plans[0], graphs) < cost(replace(found.plans[0], last=1), graphs)
    found = plans(lambda plan: False)
    assert found.plan.last == 0 and found.rung == len(found.plans) - 1, (
        "the safest, where nothing is good"
    )
    slower = plans(
        lambda plan: bool(plan.last) or any(layer.precision == "fp32" for layer in plan.layers),
        fp32_ms=10.4,
    )
    assert slower.plan.last == 0 and slower.rung >= 1, (
        "a tenth of the time is what FP32 weights on the device have to save"
    )
    once = dict.fromkeys(search.subject.calibrated, Whole(10.0, 10.4, steps))
    assert cost(slower.plan, once) <= cost(slower.plans[1], once) / (1 - TIE)


def test_an_engine_has_one_precision(search: Search) -> None:
    watched = Watched(search, answers(lambda plan: plan.last == 1))
    assert watched.plan(elsewhere(executable=True)).plan.last == 0
    assert watched.calls["graph_times"] == 0


@pytest.mark.parametrize(("most", "lasts"), [(0, [0]), (1, [0, 1]), (9, [0, 1, 2])])
def test_no_more_than_half_of_the_steps_are_left_to_full_precision(
    search: Search, most: int, lasts: list[int]
) -> None:
    settings = replace(search.settings, last_steps=most)
    assert list(FullPrecision(search.subject, settings, Context()).last_steps) == lasts
