"""An export whose verdict contradicts a plan goes on with a safer one, on seeds and with a share of
the error of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from edgegen.calibrate.choose import Measured, ladder
from edgegen.core.plan import Plan
from edgegen.evidence.terms import Terms, trial
from edgegen.workflows.context import Context
from edgegen.workflows.export import step_back
from edgegen.workflows.export.allowance import Stopwatch
from edgegen.workflows.export.build import Build
from edgegen.workflows.export.search import PlanLadder


@dataclass(frozen=True)
class Result:
    """What a verdict says of a runtime."""

    name: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.name} outside"


@dataclass(frozen=True)
class Fake:
    """A proof."""

    judged: tuple[Result, ...]

    def again(self, other: Fake) -> Fake:
        return Fake(tuple({r.name: r for r in (*self.judged, *other.judged)}.values()))


def proven(
    monkeypatch: pytest.MonkeyPatch,
    bad: dict[str, int],
    rungs: int = 9,
    seconds: float | None = None,
) -> tuple[Fake, list[dict[str, Any]], dict[str, PlanLadder]]:
    """What export concludes when the first `bad` plans of each runtime fail, what it asked for, and
    where the plans ended.
    """
    plans = ladder(
        Plan((("*", "int8"),), {}),
        [Measured("g", f"c{k}", k + 1, 1, 1) for k in range(rungs)],
        "ms",
    )
    build = Build(SimpleNamespace(), {}, {name: PlanLadder(plans, 0) for name in bad}, {})  # type: ignore[arg-type]
    asked: list[dict[str, Any]] = []

    def judge(_: Any, trials: dict[str, Any], *given: Any, **named: Any) -> Fake:
        asked.append(dict(trials))
        return Fake(tuple(Result(name, len(asked) > bad[name]) for name in trials))

    monkeypatch.setattr(step_back, "prove", judge)
    monkeypatch.setattr(step_back, "rebuild", lambda build, targets, listen: build)
    targets: Any = [SimpleNamespace(name=name) for name in bad]
    proof: Any
    ledger: Any = SimpleNamespace(trial=lambda *_: trial("w", len(asked)))
    proof, _ = step_back.prove_or_step_back(
        build, targets, Terms(0.02, 4000), Context(), ledger, Stopwatch(seconds)
    )
    return proof, asked, dict(build.plans)


def test_only_what_failed_is_judged_again_on_seeds_and_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof, asked, plans = proven(monkeypatch, {"good": 0, "late": 1})
    assert [set(trials) for trials in asked] == [{"good", "late"}, {"late"}]
    assert asked[0]["late"] == trial("w", 0) and asked[1]["late"] == trial("w", 1)
    assert {r.name: r.passed for r in proof.judged} == {"good": True, "late": True}
    assert plans["good"].rung == 0 and plans["late"].rung > 0


def test_what_never_passes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, asked, _ = proven(monkeypatch, {"never": 9})
    assert len(asked) == step_back.PLANS and not proof.judged[0].passed


def test_one_plan_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, asked, _ = proven(monkeypatch, {"never": 5}, rungs=1)
    assert len(asked) == 1 and not proof.judged[0].passed


def test_no_plan_is_tried_for_which_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, asked, plans = proven(monkeypatch, {"late": 1}, seconds=0.0)
    assert len(asked) == 1 and not proof.judged[0].passed and plans["late"].rung == 0
    proof, asked, _ = proven(monkeypatch, {"late": 1}, seconds=3600.0)
    assert len(asked) == 2 and proof.judged[0].passed
