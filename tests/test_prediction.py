"""What an export would take, before it is begun."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgegen.calibrate.rounding import on_grid
from edgegen.cli.main import run
from edgegen.errors import UsageError
from edgegen.evidence.terms import Terms
from edgegen.workflows.export import measured_costs, rounding_price
from edgegen.workflows.export.measured_costs import ExportCosts, GraphCosts
from edgegen.workflows.export.prediction import STEPS, ExportWork, predicted_steps
from edgegen.workflows.export.prices import Prices
from edgegen.workflows.export.rehearsal import asked_along_a_trajectory
from edgegen.workflows.export.rounding_price import rounding_seconds
from edgegen.workflows.export.run import ExportSettings
from edgegen.workflows.export.search_settings import SearchSettings
from edgegen.workflows.generators import load_generator
from edgegen.workflows.predict import predict_export

GRAPHS = {
    "denoiser": GraphCosts(30, 12, 4, 10**7, 0.006, 0.003),
    "decoder": GraphCosts(7, 5, 1, 10**6, 0.002, 0.001),
}
COSTS = ExportCosts(
    GRAPHS,
    Prices(0.026, 0.007, 0.1, 0.12, 6.0),
    9.0,
    400 << 20,
    570 << 20,
    700 << 20,
    800 << 20,
    False,
)
TERMS = Terms(0.02, 4000)
WORK = ExportWork(SearchSettings(TERMS), 512, 1, 1, 128, 3 * 64 * 64)


def test_steps_are_those_of_the_evidence_and_add_up_to_what_they_are_made_of() -> None:
    found = predicted_steps(COSTS, WORK)
    assert tuple(found) == STEPS
    assert found["FP32 graphs"].seconds == 9.0
    assert found["calibration"].seconds == pytest.approx(6 + 128 * 0.12, abs=0.1)
    looks = 2 * 5 * 512 * (0.013 + 0.007)
    assert looks < found["search"].seconds < 4 * looks
    pixels = TERMS.tail_looks(0.96).first * (0.026 + 0.013)
    assert pixels < found["verdict"].seconds < 1.5 * pixels


def test_twice_the_work_takes_twice_the_time() -> None:
    one, two = predicted_steps(COSTS, WORK), predicted_steps(COSTS, replace(WORK, runtimes=2))
    for step in ("search", "INT8 files", "verdict"):
        assert two[step].seconds == pytest.approx(2 * one[step].seconds, abs=0.2)
    assert two["calibration"] == one["calibration"]
    dear = predicted_steps(
        replace(COSTS, prices=replace(COSTS.prices, image=0.26, features=0.07)), WORK
    )
    assert dear["verdict"].seconds > 8 * one["verdict"].seconds


def test_a_time_that_is_given_bounds_the_search_and_the_seeds() -> None:
    free = predicted_steps(COSTS, WORK)
    terms = replace(TERMS, ruined=0.01)
    timed = replace(WORK, search=SearchSettings(terms), time=300.0)
    found = predicted_steps(COSTS, timed)
    assert found["search"].seconds < free["search"].seconds
    assert sum(step.seconds for step in found.values()) <= 300
    dear = predicted_steps(replace(COSTS, prices=replace(COSTS.prices, plan=2.0)), timed)
    assert sum(step.seconds for step in dear.values()) <= 300, "a search ends with its share"
    with pytest.raises(UsageError, match="this machine cannot calibrate on 8 seeds"):
        predicted_steps(COSTS, replace(timed, time=20.0))


def test_large_models_are_not_measured_along_whole_trajectories() -> None:
    """Damages of many heavy layers are predicted from errors, as the search does it."""
    many = {"denoiser": replace(GRAPHS["denoiser"], layers=300, multiplications=10**11)}
    light = {"denoiser": replace(many["denoiser"], multiplications=10)}
    heavy = predicted_steps(replace(COSTS, graphs=many), WORK)["search"].seconds
    assert heavy < predicted_steps(replace(COSTS, graphs=light), WORK)["search"].seconds


def test_memory_never_falls_and_grows_with_the_images() -> None:
    found = predicted_steps(COSTS, WORK)
    peaks = [step.peak_bytes for step in found.values()]
    assert peaks == sorted(peaks) and peaks[0] == int(1.6 * (570 << 20))
    large = predicted_steps(COSTS, replace(WORK, image_bytes=3 * 512 * 512))
    grown = large["verdict"].peak_bytes - found["verdict"].peak_bytes
    assert 500 << 20 < grown <= 1 << 30, "what is kept of pixels has an end"


def test_rounding_takes_longer_for_wider_layers() -> None:
    narrow, wide = rounding_seconds([(64, 64)]), rounding_seconds([(64, 640)] * 4)
    assert 0 < narrow < wide


def test_a_trajectory_is_asked_of_graphs_that_answer_nothing(tiny_run: Path) -> None:
    source = load_generator(str(tiny_run))
    calls = asked_along_a_trajectory(source)
    steps = len(source.generator.sampler.timesteps)
    assert calls.keys() == source.generator.graphs().keys()
    assert max(map(len, calls.values())) == steps
    assert all(len(value) == 1 for value in next(iter(calls.values()))[0].values())


def test_a_slow_reading_does_not_decide_what_rounding_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = rounding_seconds([(64, 640)])
    calls = iter([True])

    def stopped_once(*given: Any) -> np.ndarray:
        if next(calls, False):
            time.sleep(1)
        return on_grid(*given)

    monkeypatch.setattr(rounding_price, "on_grid", stopped_once)
    assert rounding_seconds([(64, 640)]) < usual + 0.5


@pytest.mark.slow
def test_an_inspection_predicts_when_it_is_asked_to(
    tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(tiny_run), "--time", "9m"]) == 2
    assert "--time has no meaning without --predict - add --predict" in capfd.readouterr().err
    assert run(["inspect", str(tiny_run), "--max-ruined", "5%"]) == 2
    assert "--max-ruined has no meaning without --predict" in capfd.readouterr().err
    assert run(["inspect", str(tiny_run), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["predicted"] is None
    assert run(["inspect", str(tiny_run)]) == 0
    assert "Add --predict to measure how much time and memory" in capfd.readouterr().out
    asked = ["inspect", str(tiny_run), "--predict", "--threads", "1", "--runtime", "onnxruntime"]
    assert run([*asked, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["predicted"]
    assert list(found["steps"]) == list(STEPS) and not found["is_scaled"]
    total = sum(step["seconds"] for step in found["steps"].values())
    assert found["seconds"] == pytest.approx(total) and total > 1
    assert found["peak_bytes"] > 100e6 and found["disk_bytes"] > 1e6
    assert run([*asked, "--json", "--max-ruined", "20%"]) == 0
    fewer = json.loads(capfd.readouterr().out)["predicted"]
    assert fewer["steps"]["verdict"]["seconds"] < 0.5 * found["steps"]["verdict"]["seconds"]
    assert run([*asked, "--max-ruined", "often"]) == 2
    assert "--max-ruined" in capfd.readouterr().err
    assert run(asked) == 0
    said = capfd.readouterr().out
    assert "predicted step" in said and "calibration" in said and "on 1 thread" in said


@pytest.mark.slow
def test_where_an_image_takes_long_one_call_is_measured(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_costs, "LONG", 0.0)
    monkeypatch.setattr(measured_costs, "measured_prices", None)
    found = predict_export(str(tiny_run), ExportSettings(threads=1))
    seconds = [step.seconds for step in found.steps.values()]  # a toy's may be told as 0.0
    assert found.is_scaled and min(seconds) >= 0 and sum(seconds) > 0
