"""The ladder of plans, the answers a search notes, and what a plan says of itself."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny

from edgegen.calibrate.choose import (
    SHARES,
    Measured,
    Whole,
    cost,
    damage,
    kinds,
    ladder,
)
from edgegen.cli import output
from edgegen.cli.main import run
from edgegen.core.answer_cache import Notes, folder
from edgegen.core.plan import Plan, Range, rounded_name
from edgegen.errors import InputError
from edgegen.workflows.export.calibration import digest
from edgegen.workflows.export.plans import with_ranges
from edgegen.workflows.export.search import PlanLadder
from edgegen.workflows.plans import SearchRecord

BASE = Plan((("g/first", "fp32"), ("*", "int8")), {})


def measured(*pairs: tuple[float, float]) -> list[Measured]:
    return [Measured("g", f"c{k}", damage, saved, 1) for k, (damage, saved) in enumerate(pairs)]


def kept(plan: Plan) -> set[str]:
    return {r.node for r in plan.layers if plan.precision("g", r.node) == "fp32"}


def test_rungs_give_up_more_and_more_of_the_time_and_the_most_damaging_first() -> None:
    found = measured((1, 1), (100, 1), (5, 10), (1, 8), (3, 2))
    plans = ladder(BASE, found, "ms")
    assert kept(plans[0]) == set() and all(kept(a) < kept(b) for a, b in pairwise(plans))
    assert kept(plans[1]) == {"c1"}, "most damage a millisecond"
    given_up = [sum(m.saved for m in found if m.node in kept(p)) for p in plans]
    assert all(any(g >= min(share * 22, max(given_up)) for g in given_up) for share in SHARES)
    assert len(kept(plans[-1])) < len(found)


def test_convolutions_are_of_one_kind_where_nothing_that_takes_time_differs() -> None:
    """Shapes, attributes, and the operators around them; not names or values."""
    model = tiny.conv_net((4, 8), (8, 8), (8, 8), (8, 8), (8, 16), (16, 4))
    found = kinds(model)
    assert found["c1"] == found["c2"] == found["c3"]
    assert len({found[name] for name in ("c0", "c1", "c4", "c5")}) == 4
    c2 = next(node for node in model.graph.node if node.name == "c2")
    c2.attribute.append(onnx.helper.make_attribute("dilations", [1, 1]))
    assert kinds(model)["c2"] != found["c2"] and kinds(model)["c3"] == found["c3"]


def test_a_convolution_that_saves_nothing_in_int8_is_never_in_int8() -> None:
    for plan in ladder(BASE, measured((1, 1), (0.001, -0.2), (2, 1), (3, 4)), "ms"):
        assert "c1" in kept(plan)
        assert next(r for r in plan.layers if r.node == "c1").why == "int8 saves no time here"


def test_the_cost_of_a_plan_lies_between_what_its_graphs_cost_as_a_whole() -> None:
    graphs = {"g": Whole(10.0, 40.0, 5), "once": Whole(3.0, 4.0, 1)}
    plans = ladder(BASE, measured((1, 2), (9, 3), (1, -1)), "ms")
    assert cost(plans[0], graphs) == pytest.approx(10 + 3), (
        "what saves nothing costs nothing in FP32"
    )
    assert kept(plans[-1]) == {"c1", "c2"} and cost(plans[-1], graphs) == pytest.approx(
        10 + 30 * 3 / 5 + 3
    )
    last = replace(plans[-1], last=1)
    assert cost(last, graphs) == pytest.approx(0.8 * 28 + 0.2 * 40 + 3), (
        "a graph of one call has no last step of its own"
    )
    assert cost(replace(BASE, last=1), graphs) == pytest.approx(0.8 * 10 + 0.2 * 40 + 3), (
        "a plan that was not searched"
    )


def test_nothing_left_to_choose_is_one_plan() -> None:
    assert [kept(p) for p in ladder(BASE, measured((1, 1)), "ms")] == [set()]
    assert [kept(p) for p in ladder(BASE, measured((1, -1)), "ms")] == [{"c0"}]
    assert [kept(p) for p in ladder(BASE, [], "ms")] == [set()]


def test_a_safer_plan_damages_half_as_much_and_gives_up_no_more_than_that_takes() -> None:
    plans = ladder(BASE, measured(*[(2.0**k, 1) for k in range(12)]), "ms")
    assert damage(plans[0]) == 2**12 - 1
    found, seen = PlanLadder(plans, 0), [0]
    while found.safer():
        seen.append(found.rung)
    assert seen == sorted(set(seen)) and found.rung == len(plans) - 1
    for before, after in pairwise(seen):
        least = next(
            (
                k
                for k in range(before + 1, len(plans))
                if damage(plans[k]) <= damage(plans[before]) / 2
            ),
            len(plans) - 1,
        )
        assert after == least
    assert len(kept(plans[seen[1]])) == 1, "most of the damage was that of one convolution"


def test_a_plan_with_layers_survives_its_file(tmp_path: Path) -> None:
    plan = ladder(
        Plan(BASE.rules, {"g": {"x": Range(-1, 2)}}, model="abc"), measured((1, 1), (2, 3)), "ms"
    )[-1]
    (tmp_path / "plan.json").write_bytes(plan.to_bytes())
    assert Plan.read(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("last", [-1, 1.0, True, "1", None])
def test_a_number_of_last_steps_that_is_none_is_refused(last: Any, tmp_path: Path) -> None:
    data = json.loads(ladder(BASE, measured((1, 1)), "ms")[0].to_bytes())
    assert data["last"] == 0
    (tmp_path / "plan.json").write_text(json.dumps(data | {"last": last}))
    with pytest.raises(
        InputError, match=r"E-PLAN. not a usable plan: last is a number of steps, got "
    ):
        Plan.read(tmp_path / "plan.json")


@pytest.mark.parametrize(
    "change", [{"precision": "int4"}, {"damage": "much"}, {"multiplications": None}]
)
def test_a_layer_that_says_nothing_sensible_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    data = json.loads(ladder(BASE, measured((1, 1)), "ms")[0].to_bytes())
    data["layers"][0] |= change
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"E-PLAN. not a usable plan: "):
        Plan.read(tmp_path / "plan.json")


def test_a_plan_for_other_weights_keeps_its_precisions_and_gets_new_ranges(
    capfd: pytest.CaptureFixture[str],
) -> None:
    measured_now = Plan(BASE.rules, {"theta": {"x": Range(-1, 1)}}, model="now")
    plan = Plan((("theta/a", "fp32"), ("*", "int8")), {}, model="then")
    taken = with_ranges(plan, measured_now, output.terminal)
    assert (
        taken.rules == plan.rules and taken.ranges == measured_now.ranges and taken.model == "now"
    )
    assert "its ranges are measured again" in capfd.readouterr().err
    same = Plan(plan.rules, {}, model="now")
    assert with_ranges(same, measured_now, output.terminal) is same


@pytest.mark.slow
def test_a_plan_of_another_model_is_refused_before_the_long_work(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "edgegen.workflows.export.run.calibrate_graphs", lambda *_: pytest.fail("it calibrated")
    )
    path = tmp_path / "plan.json"
    path.write_bytes(Plan((("theta/nowhere", "fp32"),), {}).to_bytes())
    assert tiny.export(tiny_run, tmp_path / "out", "--plan", str(path)) == 4
    assert (
        "E-PLAN] the plan was made for another generator: theta/nowhere is not in these graphs"
        in capfd.readouterr().err
    )
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["plan.json"]


@pytest.mark.export
def test_the_hash_of_models_is_of_their_weights() -> None:
    models = tiny.models()
    other = {k: onnx.ModelProto.FromString(m.SerializeToString()) for k, m in models.items()}
    assert digest(models) == digest(other)
    rounded = onnx.numpy_helper.from_array(np.zeros(1, np.float32), rounded_name("theta", 8))
    other["theta"].graph.initializer.append(rounded)
    assert digest(models) == digest(other), "ranges are the same, whichever way weights are rounded"
    tensor = other["theta"].graph.initializer[0]
    tensor.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name)
    )
    assert digest(models) != digest(other)


def test_what_was_answered_is_not_asked_again_and_a_torn_line_is_no_answer(tmp_path: Path) -> None:
    path, asked = tmp_path / "deep" / "notes.jsonl", list[str]()

    def find(answer: Any) -> Any:
        asked.append(str(answer))
        return answer

    notes = Notes(path)
    assert notes.recall("a", lambda: find([1.5, "x"])) == [1.5, "x"] and notes.recall(
        "a", lambda: find(2)
    ) == [1.5, "x"]
    with path.open("ab") as f:
        f.write(b'{"asked": "b", "ans')  # killed while writing
    again = Notes(path)
    assert (
        again.recall("a", lambda: find(3)) == [1.5, "x"] and again.recall("b", lambda: find(4)) == 4
    )
    assert Notes(path).recall("b", lambda: find(5)) == 4 and asked == ["[1.5, 'x']", "4"]


def test_notes_say_what_an_answer_took_whoever_found_it(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    notes = Notes(path)
    notes.recall("slow", lambda: time.sleep(0.05))
    assert notes.seconds("slow") >= 0.05
    with path.open("ab") as f:
        f.write(b'{"asked": "old", "answer": 1}\n')
    again = Notes(path)
    assert again.seconds("slow") == notes.seconds("slow")
    assert again.recall("old", lambda: 2) == 1 and again.seconds("old") == 0, "of before"
    with pytest.raises(KeyError):
        again.seconds("never asked")


def test_an_answer_that_is_no_number_is_not_noted(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "n.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        notes.recall("a", lambda: float("nan"))
    assert notes.recall("a", lambda: 1.0) == 1.0


def test_old_notes_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    place = tmp_path / "search"
    place.mkdir()
    for name, age in (("old.jsonl", 40), ("new.jsonl", 1), ("other.txt", 99)):
        (place / name).write_text("")
        then = (place / name).stat().st_mtime - age * 86400
        os.utime(place / name, (then, then))
    assert folder("search") == place and sorted(p.name for p in place.iterdir()) == [
        "new.jsonl",
        "other.txt",
    ]


def test_a_plan_can_be_looked_at(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = ladder(BASE, measured((1, 1), (2, -3)), "ms of something")[0]
    (tmp_path / "plan.json").write_bytes(plan.to_bytes())
    assert run(["plan", "show", str(tmp_path / "plan.json")]) == 0
    said = capfd.readouterr().out
    assert (
        "g/c1" in said
        and "int8 saves no time here" in said
        and "ms of something" in said
        and "always FP32: g/first." in said
    )
    assert run(["plan", "show", str(tmp_path / "plan.json"), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert [r["precision"] for r in shown["layers"]] == ["int8", "fp32"] and shown[
        "unit"
    ] == "ms of something"
    (tmp_path / "plan.json").write_bytes(BASE.to_bytes())
    assert run(["plan", "show", str(tmp_path / "plan.json")]) == 0
    assert "was not made by a search" in capfd.readouterr().out
    assert run(["plan", "show", str(tmp_path / "none.json")]) == 4


def test_the_plan_of_a_bundle_is_shown_by_runtime(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "show", str(tiny_bundle), "--runtime", "onnxruntime", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (
        shown["layers"]
        and all(r["damage"] >= 0 for r in shown["layers"])
        and shown["unit"].startswith("ms")
    )
    assert shown["search"] is None, "the plan was given"
    assert run(["plan", "show", str(tiny_bundle), "--runtime", "abacus"]) == 2
    assert "E-BUNDLE-RUNTIME" in capfd.readouterr().err


@pytest.mark.parametrize("bill", [None, 1, {}, {"steps": 3}, {"steps": [{"step": "a"}]}])
def test_a_bill_that_another_program_wrote_is_not_shown(bill: Any) -> None:
    assert SearchRecord.of(bill) is None
