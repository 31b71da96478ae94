"""Graphs whose last steps run in full precision: which steps, by what they are told, and where that
is undone.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny

from edgegen.cli.main import run
from edgegen.core.bundle import MANIFEST, Bundle, digest
from edgegen.core.files import read_json, to_json
from edgegen.core.fp32_last_steps import (
    SessionWithFp32Steps,
    fp32_below,
    int8_session,
    timesteps_by_graph,
    with_fp32_steps,
)
from edgegen.core.plan import Plan
from edgegen.core.runtime import Pipeline
from edgegen.errors import TrustError
from edgegen.evidence import bench
from edgegen.export import runtime
from edgegen.workflows.executor import int8

pytestmark = pytest.mark.export

TERMS = (*tiny.TERMS, "--fid-budget", "90%", "--min-psnr", "1")


def asked(*times: float, **more: Any) -> list[dict[str, Any]]:
    return [{"t": np.full(3, t, np.float32), **more} for t in times]


def test_the_last_calls_are_told_by_their_timestep() -> None:
    recorded = {
        "net": asked(9, 6, 2),
        "other": asked(9, 6, 2),
        "once": asked(5),
        "timeless": [{"x": np.zeros(1)}] * 3,
        "back": asked(1, 2, 3),
    }
    assert timesteps_by_graph(recorded) == {"net": [9, 6, 2], "other": [9, 6, 2]}
    assert fp32_below(recorded, 1) == {"net": 4.0, "other": 4.0}
    assert fp32_below(recorded, 2) == {"net": 7.5, "other": 7.5}
    assert fp32_below(recorded, 0) == {} == fp32_below(recorded, 3), "not all can be the last"
    assert fp32_below({"same": asked(5, 5)}, 1) == {}, (
        "a graph that is told one time twice cannot tell which is the last"
    )


def test_a_step_that_asks_twice_is_one_step() -> None:
    """Guidance asks twice at each timestep, and a solver may visit one timestep in two steps."""
    recorded = {"denoiser": asked(981, 981, 961, 961, 961, 961, 0.25, 0.25)}
    assert timesteps_by_graph(recorded) == {"denoiser": [981, 961, 0.25]}
    assert fp32_below(recorded, 1) == {"denoiser": 480.625}
    assert fp32_below(recorded, 2) == {"denoiser": 971.0}


def test_a_graph_that_is_not_asked_at_the_last_steps_has_none_in_full_precision() -> None:
    """cas-dm's phi in a window of timesteps."""
    recorded = {"theta": asked(9, 6, 4, 2), "early": asked(9, 6), "late": asked(4, 2)}
    assert fp32_below(recorded, 1) == {"theta": 3.0, "late": 3.0}
    assert fp32_below(recorded, 2) == {"theta": 5.0}, (
        "late would be in full precision as a whole, and needs no INT8"
    )


def test_each_step_goes_to_one_session() -> None:
    said: list[tuple[str, float]] = []

    def session(name: str) -> Any:
        return lambda **inputs: said.append((name, float(inputs["t"][0])))

    call = with_fp32_steps(
        {"net": session("int8"), "decoder": session("decoder")},
        {"net": session("full")},
        {"net": 4.0},
    )
    for inputs in asked(9, 6, 4, 2):
        call["net"](**inputs)
    assert said == [("int8", 9), ("int8", 6), ("int8", 4), ("full", 2)]
    assert (
        not isinstance(call["decoder"], SessionWithFp32Steps)
        and int8_session(call["decoder"]) is call["decoder"]
    )
    assert (
        isinstance(call["net"], SessionWithFp32Steps)
        and int8_session(call["net"]) is call["net"].int8
        and call["net"].placement() == {}
    )


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A plan with everything in INT8 but the last step."""
    folder = tmp_path_factory.mktemp("stepped")
    measured = Plan.read(_calibrated(tiny_run, folder))
    (folder / "plan.json").write_bytes(dataclasses.replace(measured, last=1).to_bytes())
    assert (
        run(
            [
                "export",
                str(tiny_run),
                "--int8",
                "--plan",
                str(folder / "plan.json"),
                "--runtime",
                tiny.RUNTIMES,
                *TERMS,
                "--max-images",
                "500",
                "--threads",
                "1",
                "-o",
                str(folder / "out"),
            ]
        )
        == 0
    )
    return Bundle.open(folder / "out")


def _calibrated(tiny_run: Path, folder: Path) -> Path:
    assert run(["calibrate", str(tiny_run), "-o", str(folder / "stats"), "--samples", "32"]) == 0
    return folder / "stats" / "plan.json"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_bundle_runs_its_last_step_in_full_precision(exported: Bundle, name: str) -> None:
    target = runtime(name)
    full, mixed = (exported.pipeline(target, p) for p in ("fp32", "int8"))
    recorded = bench.record(full, range(3))
    assert (
        exported.manifest.runtimes[name].until == fp32_below(recorded, 1)
        and len(fp32_below(recorded, 1)) == 2
    )
    rounding = Pipeline(
        full.latent,
        full.sampler,
        {graph: int8_session(session) for graph, session in mixed.call.items()},
    )
    for graph, calls in recorded.items():
        for k, inputs in enumerate(calls):
            same = full if k == len(calls) - 1 else rounding
            np.testing.assert_array_equal(mixed.call[graph](**inputs), same.call[graph](**inputs))
            assert not np.array_equal(full.call[graph](**inputs), rounding.call[graph](**inputs))
    assert not np.array_equal(mixed(range(3)), rounding(range(3)))
    np.testing.assert_allclose(
        int8(exported, name, 1, False)(range(3)), mixed(range(3)), rtol=0, atol=1e-2
    )


def test_the_stand_in_changes_to_full_precision_too(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a bundle's runtime does not run, its files are executed by another, at the same
    steps.
    """
    monkeypatch.setattr(
        "edgegen.workflows.executor.executing", lambda target: runtime("onnxruntime")
    )
    made = int8(exported, "openvino", 1, False)
    full = exported.pipeline(runtime("onnxruntime"), "fp32")
    for graph, calls in bench.record(full, range(3)).items():
        assert isinstance(made.call[graph], SessionWithFp32Steps)
        np.testing.assert_array_equal(made.call[graph](**calls[-1]), full.call[graph](**calls[-1]))
        assert not np.array_equal(made.call[graph](**calls[0]), full.call[graph](**calls[0]))


def test_engines_have_one_precision_and_the_export_says_so(exported: Bundle) -> None:
    if "tensorrt-rtx" not in exported.manifest.runtimes:
        pytest.skip("tensorrt_rtx is not installed")
    assert exported.manifest.runtimes["tensorrt-rtx"].until == {}
    assert Plan.read(exported.path("int8/tensorrt-rtx/plan.json")).last == 0


def test_the_size_is_of_all_that_the_device_holds(exported: Bundle) -> None:
    files, built = exported.manifest.files, exported.manifest.runtimes["onnxruntime"]
    full = sum(files[f].bytes for f in exported.manifest.graphs.values())
    found = exported.manifest.evidence["runtimes"]["onnxruntime"]["size_ratio"]
    assert (
        found == pytest.approx(1 + sum(files[f].bytes for f in built.onnx.values()) / full)
        and found > 1
    )


def test_the_files_are_refereed_at_all_steps(exported: Bundle) -> None:
    """The FP32 step would differ from the Q/DQ file that the referee reads, by all that
    quantization costs in one of three.
    """
    for graph, found in exported.manifest.evidence["runtimes"]["onnxruntime"]["referee"].items():
        assert found["runtime_db"] > found["quantization_db"] + 10, graph
    assert run(["verify", str(exported.root), *TERMS, "--threads", "1"]) == 0


def test_a_plan_says_which_steps_it_leaves(
    exported: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "show", str(exported.root)]) == 0
    assert "Of the sampler's steps, the last runs in FP32 as a whole" in capfd.readouterr().out


@pytest.mark.parametrize("last", [4, 9])
def test_a_plan_of_a_longer_sampler_is_refused(
    exported: Bundle, tiny_run: Path, tmp_path: Path, last: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else all steps would be in INT8, and nobody would know."""
    plan = dataclasses.replace(Plan.read(exported.path("int8/onnxruntime/plan.json")), last=last)
    (tmp_path / "plan.json").write_bytes(plan.to_bytes())
    assert (
        tiny.export(
            tiny_run,
            tmp_path / "out",
            "--plan",
            str(tmp_path / "plan.json"),
            runtimes="onnxruntime",
        )
        == 4
    )
    assert (
        f"the plan leaves the last {last} steps to FP32, and this sampler has 4"
        in capfd.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_steps_are_asked_of_a_search_alone(
    exported: Bundle, tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = str(exported.path("int8/onnxruntime/plan.json"))
    assert (
        tiny.export(
            tiny_run, tmp_path / "out", "--plan", plan, "--last-steps", "0", runtimes="onnxruntime"
        )
        == 2
    )
    assert (
        "--last-steps is for the search of a plan, and --plan takes one as it is"
        in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "until", "why"),
    [
        ("onnxruntime", {"phantom": 10.0}, "there is no graph phantom"),
        ("tensorrt-rtx", {"theta": 10.0}, "engines cannot change to FP32 between steps"),
    ],
)
def test_steps_of_nothing_and_of_engines_are_refused(
    exported: Bundle, name: str, until: dict[str, float], why: str, tmp_path: Path
) -> None:
    if name not in exported.manifest.runtimes:
        pytest.skip(f"{name} is not installed")
    shutil.copytree(exported.root, tmp_path / "b")
    data = read_json(tmp_path / "b" / MANIFEST)
    data["runtimes"][name]["until"] = until
    data["sha256"] = digest(data)
    (tmp_path / "b" / MANIFEST).write_bytes(to_json(data))
    with pytest.raises(TrustError, match=f"runtimes.{name}.until: {why}"):
        Bundle.open(tmp_path / "b")


def test_the_fp32_file_is_the_one_that_ships(exported: Bundle) -> None:
    for graph, name in exported.manifest.graphs.items():
        kinds = {n.op_type for n in onnx.load(exported.path(name)).graph.node}
        assert "QuantizeLinear" not in kinds, graph
