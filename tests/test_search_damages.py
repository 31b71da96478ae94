"""What each layer damages alone: along whole trajectories, and predicted from errors of calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import Watched, answers, elsewhere, layers, made

from edgegen.export import runtime
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
    both = measure.damages((graph, node), [0, 1])
    assert both == measure.damages((graph, node), [0]) + measure.damages((graph, node), [1])
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

    def errors(layer: Any, last_steps: Any) -> list[float]:
        return [places[layer]] * len(last_steps)

    def squared(layer: Any, last_steps: Any) -> list[float]:
        return [places[layer] ** 2] * len(last_steps)

    def unrelated(layer: Any, last_steps: Any) -> list[float]:
        return [places[layer] * 7 % 5] * len(last_steps)

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
        unrelated((layer.graph, layer.node), [0])[0] for layer in plan.layers
    ]
    assert "each, since errors rank them only to" in watched.bills["elsewhere"].damages


def test_the_error_of_a_layer_is_of_its_own_graphs_answers(search: Search) -> None:
    """Coarser weights have a larger error, and a call of the last step counts only where it is in
    INT8.
    """
    measure = search.measurements(runtime("openvino"))
    layer = layers(search, runtime("openvino"))[0]
    graph, _ = layer
    whole, before = measure.errors(layer, [0, 1])
    assert 0 < whole < 0.1 and 0 < before < 0.1 and whole != before
    calls = measure.full.answered[graph]
    assert 1 < len(calls) <= search.settings.calls_alone
    int8 = measure._alone(layer)
    relative = [
        float(np.square(int8(**call) - exact).mean() / np.square(exact).mean())
        for call, exact in calls
    ]
    assert whole == pytest.approx(np.mean(relative), rel=1e-3)
    assert before == pytest.approx(np.mean(relative[:-1]), rel=1e-3)
