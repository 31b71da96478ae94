"""The search goes on where it was stopped, is the same twice, and gives way when the verdict
contradicts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgegen.calibrate.choose import Measured, Whole, cost, ladder
from edgegen.cli import export
from edgegen.core.plan import Plan
from edgegen.evidence.compare import ERROR, SHARES, Terms
from edgegen.export import runtime
from edgegen.workflows.export import build, prove
from edgegen.workflows.export.search import COUNTED, MEASURED, Found, Search
from edgegen.workflows.generators import load_generator


@pytest.fixture(scope="module")
def search(tiny_run: Path) -> Search:
    return made(tiny_run)


def made(run: Path, pairs: int = 500) -> Search:
    """Of a run folder; pairs: of a verdict, at most."""
    source = load_generator(str(run))
    models = build.fp32_models(source)
    even, plan = build.calibrated(source, models, 32, 1)
    return Search(source, models, even, plan, Terms(0.3, pairs, 1.0), 1, None, 1)


def counted(
    search: Search, monkeypatch: pytest.MonkeyPatch, cache: Path, stop_at: int = 99
) -> dict[str, int]:
    """How often each kind of question is really answered; the `stop_at`th look is where the process
    dies.
    """
    calls = dict.fromkeys(("_damage", "_saved", "_whole", "_psnr", "_look"), 0)
    monkeypatch.setenv("EDGEGEN_CACHE", str(cache))
    for name in calls:
        real = getattr(Search, name)

        def spy(self: Search, *given: Any, name: str = name, real: Any = real) -> Any:
            calls[name] += 1
            if name == "_look" and calls[name] == stop_at:
                raise KeyboardInterrupt
            return real(self, *given)

        monkeypatch.setattr(Search, name, spy)
    return calls


def test_what_was_stopped_goes_on_and_what_is_done_twice_is_the_same(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = runtime("onnxruntime")
    with monkeypatch.context() as patch:
        first = counted(search, patch, tmp_path, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            search.plan(target)
    assert (
        first["_damage"] > 1
        and first["_saved"] == 1
        and first["_psnr"] >= 1
        and first["_look"] == 2
    )
    with monkeypatch.context() as patch:
        second = counted(search, patch, tmp_path)
        found = search.plan(target)
    assert (
        second["_damage"] == second["_saved"] == second["_whole"] == second["_psnr"] == 0
        and second["_look"] >= 1
    )
    trail = search.trail["onnxruntime"]
    with monkeypatch.context() as patch:
        third = counted(search, patch, tmp_path)
        assert search.plan(target).plan.to_bytes() == found.plan.to_bytes()
    assert not any(third.values()) and search.trail["onnxruntime"] == trail
    assert found.plan.unit == MEASURED and {layer.precision for layer in found.plan.layers} <= {
        "int8",
        "fp32",
    }


@pytest.mark.parametrize(("pairs", "looked"), [(500, 2_000), (4_000, 2_000), (10_000, 5_000)])
def test_more_pairs_for_the_verdict_are_more_for_the_search(
    tiny_run: Path, pairs: int, looked: int
) -> None:
    """A plan that the verdict could tell from the budget is not left for a slower one."""
    assert made(tiny_run, pairs).most == looked


def test_notes_are_found_by_another_process(search: Search, tiny_run: Path) -> None:
    """Whatever order its sets come in: hashes of text differ from process to process."""
    code = (
        "import sys\nfrom test_search import made\nfrom edgegen.export import runtime\nfrom "
        "pathlib import Path\n"
        "host = runtime('onnxruntime')\nprint(made(Path(sys.argv[1]))._key(host, host))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    keys = {
        subprocess.run(
            [sys.executable, "-c", code, str(tiny_run)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in "12"
    }
    host = runtime("onnxruntime")
    assert keys == {search._key(host, host)}


def test_a_runtime_that_does_not_run_here_is_weighed_by_multiplications(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = SimpleNamespace(
        name="elsewhere",
        executable=False,
        dialect=runtime("openvino").dialect,
        version=lambda: "1",
        cannot_run=lambda: "no such card",
    )
    calls = counted(search, monkeypatch, tmp_path)
    found = search.plan(target)
    assert calls["_saved"] == 0 and found.plan.unit == COUNTED
    assert all(
        layer.saved == pytest.approx(layer.multiplications / 1e6) for layer in found.plan.layers
    )
    assert all(look["executed_by"] == "onnxruntime" for look in search.trail["elsewhere"])


def test_the_last_step_in_full_precision_is_weighed_with_all_plans(
    search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where INT8 costs images only at the last step, the plan that leaves that one to FP32 is the
    only good one.
    """
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path))
    steps = len(search.source.generator.sampler.timesteps)
    assert list(search.lasts) == [0, 1]
    monkeypatch.setattr(Search, "_saved", lambda self, target, found: [1.0] * len(found))
    monkeypatch.setattr(
        Search, "_whole", lambda self, target: dict.fromkeys(self.even, (10.0, 30.0))
    )
    monkeypatch.setattr(
        Search, "_damage", lambda self, graph, node, last, target, host: float(len(node))
    )
    monkeypatch.setattr(Search, "_psnr", lambda *_: 99.0)
    graphs = dict.fromkeys(search.even, Whole(10.0, 30.0, steps))

    def plans(good: Callable[[Plan], bool]) -> Found:
        def look(self: Search, plan: Plan, *_: Any) -> dict[str, Any]:
            return {
                "likely": float(good(plan)),
                "psnr_db": 99.0,
                "fp32_convolutions": 0,
                "change": 0.0,
                "pairs": 1,
            }

        monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / str(len(list(tmp_path.iterdir())))))
        monkeypatch.setattr(Search, "_look", look)
        return search.plan(runtime("onnxruntime"))

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
    monkeypatch.setattr(
        Search, "_whole", lambda self, target: dict.fromkeys(self.even, (10.0, 10.4))
    )
    slower = plans(
        lambda plan: bool(plan.last) or any(layer.precision == "fp32" for layer in plan.layers)
    )
    assert slower.plan.last == 0 and slower.rung == 1, (
        "a tenth of the time is what FP32 weights on the device have to save"
    )
    engine = SimpleNamespace(
        name="engine",
        executable=True,
        dialect=runtime("openvino").dialect,
        cannot_run=lambda: None,
        version=lambda: "1",
    )
    monkeypatch.setattr(
        Search, "_whole", lambda self, target: pytest.fail("an engine has one precision")
    )
    assert search.plan(engine).plan.last == 0


@pytest.mark.parametrize(("most", "lasts"), [(0, [0]), (1, [0, 1]), (9, [0, 1, 2])])
def test_no_more_than_half_of_the_steps_are_left_to_full_precision(
    tiny_run: Path, most: int, lasts: list[int]
) -> None:
    source = load_generator(str(tiny_run))
    models = build.fp32_models(source)
    even, plan = build.calibrated(source, models, 32, 1)
    assert (
        list(Search(source, models, even, plan, Terms(0.3, 500, 1.0), 1, None, most).lasts) == lasts
    )


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
    monkeypatch: pytest.MonkeyPatch, bad: dict[str, int], rungs: int = 9
) -> tuple[Fake, list[dict[str, Any]], dict[str, Found]]:
    """What export concludes when the first `bad` plans of each runtime fail, what it asked for, and
    where the plans ended.
    """
    plans = ladder(
        Plan((("*", "int8"),), {}),
        [Measured("g", f"c{k}", k + 1, 1, 1) for k in range(rungs)],
        "ms",
    )
    made = build.Made(SimpleNamespace(), {}, {name: Found(plans, 0) for name in bad}, {})  # type: ignore[arg-type]
    asked: list[dict[str, Any]] = []

    def judge(_: Any, trials: dict[str, Any], *given: Any, **named: Any) -> Fake:
        asked.append(dict(trials))
        return Fake(tuple(Result(name, len(asked) > bad[name]) for name in trials))

    monkeypatch.setattr(prove, "prove", judge)
    monkeypatch.setattr(build, "rebuild", lambda made, targets: made)
    targets = [SimpleNamespace(name=name) for name in bad]
    proof, _ = export._proven(
        made,
        build.Order(targets, Terms(0.02, 4000), 1, None, 32, None, None, None, 1),  # type: ignore[arg-type]
    )
    return proof, asked, dict(made.plans)  # type: ignore[return-value]


def test_only_what_failed_is_judged_again_on_seeds_and_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof, asked, plans = proven(monkeypatch, {"good": 0, "late": 1})
    assert [set(trials) for trials in asked] == [{"good", "late"}, {"late"}]
    assert asked[0]["late"] == Terms(0.02, 4000).trial(0) and asked[1]["late"] == Terms(
        0.02, 4000
    ).trial(1)
    assert {r.name: r.passed for r in proof.judged} == {"good": True, "late": True}
    assert plans["good"].rung == 0 and plans["late"].rung > 0


def test_the_error_is_shared_and_no_seed_judges_two_plans() -> None:
    trials = [Terms(0.02, 4000).trial(k) for k in range(len(SHARES))]
    assert sum(1 - t.level for t in trials) == pytest.approx(ERROR)
    seeds = [range(t.first_seed, t.first_seed + 4000) for t in trials]
    assert (
        not set(seeds[0]) & set(seeds[1])
        and not set(seeds[1]) & set(seeds[2])
        and not set(seeds[0]) & set(seeds[2])
    )


def test_what_never_passes_ends_with_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, asked, _ = proven(monkeypatch, {"never": 9})
    assert len(asked) == len(SHARES) and not proof.judged[0].passed


def test_one_plan_is_not_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    proof, asked, _ = proven(monkeypatch, {"never": 5}, rungs=1)
    assert len(asked) == 1 and not proof.judged[0].passed
