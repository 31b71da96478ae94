"""What each layer damages alone: along whole trajectories, and predicted from errors of calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import Watched, answers, elsewhere, layers, made

from edgegen.export import runtime
from edgegen.workflows.export.damages import units_of
from edgegen.workflows.export.measurements import AnsweredOnce
from edgegen.workflows.export.search import Search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def search(tiny_run: Path) -> Search:
    return made(tiny_run)


@pytest.fixture(autouse=True)
def own_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))


def test_damages_are_the_same_for_any_number_of_workers(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken = {
        name: answer for name, answer in answers(lambda plan: True).items() if name != "damages"
    }
    found = []
    for threads in (1, 3):
        monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / str(threads)))
        other = Search(search.subject, search.settings, replace(search.context, threads=threads))
        found.append(Watched(other, taken).plan(elsewhere(cannot_run=lambda: "no such card")))
    one, many = found
    assert one.plan.to_bytes() == many.plan.to_bytes()
    assert len({layer.damage for layer in one.plan.layers}) > 1


def test_trajectories_share_the_steps_before_they_part(search: Search) -> None:
    """The damage with the last step in FP32 is that of a search which asks for it alone."""
    measure = search.measurements(runtime("openvino"))
    graph, model = next(iter(search.subject.calibrated.items()))
    node = [n.name for n in model.graph.node if n.op_type == "Conv"][1]
    both = measure.damages([(graph, node)], [0, 1])
    assert both == measure.damages([(graph, node)], [0]) + measure.damages([(graph, node)], [1])
    assert both[0] > both[1] > 0, "what an INT8 step adds, the steps behind it take away"

    calls = []

    def session(**inputs: Any) -> Any:
        calls.append(inputs)
        return inputs["x"] + 1

    once = AnsweredOnce(session)
    x, t = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    assert np.array_equal(once(x=x, t=t), once(x=x.copy(), t=t)) and len(calls) == 1
    once(x=x, t=t * 2)
    once(x=x + 1, t=t)
    assert len(calls) == 3


def test_damages_of_many_layers_are_predicted_from_errors_and_checked(search: Search) -> None:
    """Errors that rank layers as trajectories do stand for them; others do not."""
    target = elsewhere(cannot_run=lambda: "no such card")
    told = {name: of for name, of in answers(lambda plan: True).items() if name != "damages"}
    places = {one: k + 1.0 for k, one in enumerate(layers(search, target))}
    assert len(places) > 10

    def errors(unit: Any, last_steps: Any) -> list[float]:
        return [places[unit[0]]] * len(last_steps)

    def squared(unit: Any, last_steps: Any) -> list[float]:
        return [places[unit[0]] ** 2] * len(last_steps)

    def unrelated(unit: Any, last_steps: Any) -> list[float]:
        return [places[unit[0]] * 7 % 5] * len(last_steps)

    settings = replace(search.settings, whole_work=0.0)
    many = Search(search.subject, settings, search.context)
    watched = Watched(many, told | {"errors": errors, "damages": squared})
    plan = watched.plan(target).plan
    assert watched.calls["errors"] == len(places) > watched.calls["damages"]
    for layer in plan.layers:
        assert layer.damage == pytest.approx(places[layer.graph, layer.node] ** 2, rel=1e-6)
    assert "predicted from their errors" in watched.bills["elsewhere"].damages
    other = replace(settings, doubt=0.2)  # other notes
    watched = Watched(
        Search(search.subject, other, search.context),
        told | {"errors": errors, "damages": unrelated},
    )
    plan = watched.plan(target).plan
    assert [layer.damage for layer in plan.layers] == [
        unrelated([(layer.graph, layer.node)], [0])[0] for layer in plan.layers
    ]
    assert "each, since errors rank them only to" in watched.bills["elsewhere"].damages


def test_layers_that_there_is_no_time_for_are_asked_about_in_runs_of_neighbours(
    search: Search,
) -> None:
    target = elsewhere(cannot_run=lambda: "no such card")
    asked: list[tuple[tuple[str, str], ...]] = []

    def damages(unit: Any, last_steps: Any) -> list[float]:
        asked.append(unit)
        return [float(len(asked))] * len(last_steps)

    settings = replace(search.settings, groups=3)
    told = answers(lambda plan: True) | {"damages": damages}
    plan = Watched(Search(search.subject, settings, search.context), told).plan(target).plan
    every = layers(search, target)
    assert [layer for unit in asked for layer in unit] == every, "each once, in their order"
    assert len(search.subject.calibrated) <= len(asked) < len(every)
    assert all(len({graph for graph, _ in unit}) == 1 for unit in asked)
    found = {(layer.graph, layer.node): layer for layer in plan.layers}
    for k, unit in enumerate(asked):
        assert sum(found[one].damage or 0.0 for one in unit) == pytest.approx(k + 1)
        shares = {(found[one].damage or 0.0) / (found[one].multiplications or 1) for one in unit}
        assert max(shares) == pytest.approx(min(shares)), "by what each multiplies"


@pytest.mark.parametrize("groups", [1, 2, 5, 40, 99])
def test_runs_of_neighbours_multiply_about_as_much_as_one_another(groups: int) -> None:
    counts = {("a" if k < 60 else "b", f"n{k}"): 1 + k % 7 for k in range(80)}
    found = units_of(counts, groups)
    assert [layer for unit in found for layer in unit] == list(counts)
    assert abs(len(found) - max(min(groups, 80), 2)) <= 1
    work = [sum(counts[one] for one in unit) for unit in found]
    assert max(work) <= sum(counts.values()) / groups + 7 or groups >= 80


def test_the_error_of_a_layer_is_of_its_own_graphs_answers(search: Search) -> None:
    """Coarser weights have a larger error, and a call of the last step counts only where it is in
    INT8.
    """
    measure = search.measurements(runtime("openvino"))
    layer = layers(search, runtime("openvino"))[0]
    graph, _ = layer
    whole, before = measure.errors([layer], [0, 1])
    assert 0 < whole < 0.1 and 0 < before < 0.1 and whole != before
    calls = measure.full.answered[graph]
    assert 1 < len(calls) <= search.settings.calls_alone
    int8 = measure._alone([layer])
    relative = [
        float(np.square(int8(**call) - exact).mean() / np.square(exact).mean())
        for call, exact in calls
    ]
    assert whole == pytest.approx(np.mean(relative), rel=1e-3)
    assert before == pytest.approx(np.mean(relative[:-1]), rel=1e-3)
