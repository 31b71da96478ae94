"""What only a GPU can show: parity, providers, the engine cache and latency. Skipped, loudly, where
there is none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Compiling, placement
from edgegen.evidence import bench, parity
from edgegen.export import RUNTIMES, qdq, runtime
from edgegen.export.onnx import write
from edgegen.workflows import gpu_suite

GPU = [name for name in RUNTIMES if runtime(name).device() == "GPU"]
# a driver's libraries may warn of what they like
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]


def on_gpu(name: str) -> Any:
    target = runtime(name)
    if why := target.cannot_run():
        pytest.skip(f"{name} does not run here: {why}")
    return target


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU)
def test_full_precision_graphs_compute_what_torch_does(
    name: str, kept: Path, tmp_path: Path
) -> None:
    """TF32 would differ by 1e-3."""
    target = on_gpu(name)
    for graph, model in tiny.models().items():
        path = write(model, tmp_path / f"{graph}.onnx")
        session = target.load(
            target.compile(GraphFile.made_here(path)) if isinstance(target, Compiling) else path, 1
        )
        assert (
            parity.largest_difference(session, tiny.torch_images().call[graph], tiny.calls()[graph])
            <= parity.FP32_LIMIT
        )


@pytest.mark.gpu
@pytest.mark.parametrize("name", GPU)
def test_quantized_graphs_compute_what_the_file_says(name: str, kept: Path, tmp_path: Path) -> None:
    target = on_gpu(name)
    judge, host = runtime("reference"), runtime("onnxruntime")
    for graph, model in tiny.models().items():
        path = write(
            qdq.quantize(model, graph, tiny.plan(), target.dialect), tmp_path / f"{graph}.onnx"
        )
        full = host.load(write(model, tmp_path / f"{graph}.full.onnx"), 1)
        session = target.load(
            target.compile(GraphFile.made_here(path)) if isinstance(target, Compiling) else path, 1
        )
        found = parity.referee(session, judge.load(path, 1), full, tiny.calls()[graph], half=True)
        parity.check_referee(name, {graph: found})
        assert sum(placement({graph: session})[graph].values()) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in GPU if n.startswith("tensorrt")])
def test_an_engine_is_built_once_and_a_damaged_one_again(
    name: str, kept: Path, tmp_path: Path
) -> None:
    target = on_gpu(name)
    path = write(tiny.models()["theta"], tmp_path / "theta.onnx")
    file = GraphFile.made_here(path)
    built = target.compile(file)
    before = built.stat().st_mtime_ns
    target.load(target.compiled(file), 1)
    assert target.compiled(file) == built and built.stat().st_mtime_ns == before
    assert target.compile(file) == built and built.stat().st_mtime_ns > before


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_int8_against_float16_is_measured(name: str, kept: Path, tmp_path: Path) -> None:
    """Both run and give a time; which is shorter is a fact for the report, not for a test."""
    sessions = {}
    for kind in (name, f"{name}-fp16"):
        target = on_gpu(kind)
        path = write(
            qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), target.dialect),
            tmp_path / f"{kind}.onnx",
        )
        sessions[kind] = target.load(target.compile(GraphFile.made_here(path)), 1)
    calls = tiny.calls()["theta"]
    start = tiny.torch_images()
    pipelines = {
        kind: type(start)(start.latent, start.sampler, {"theta": session})
        for kind, session in sessions.items()
    }
    times = bench.latencies(pipelines, {"theta": calls}, threads=1)
    assert all(t.wall_ms > 0 for t in times.values())


def test_the_suite_says_why_each_runtime_is_not_there(
    tiny_bundle: Path, kept: Path, tmp_path: Path
) -> None:
    report = gpu_suite.suite(Bundle.open(tiny_bundle), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert set(report["runtimes"]) == set(GPU) and report["family"] == "cas-dm"
    for name, found in report["runtimes"].items():
        why = runtime(name).cannot_run()
        assert found["state"] in (("missing",) if why else ("ok", "missing"))
        assert why is None or found["why"] == why


def test_the_suite_measures_what_runs(
    tiny_bundle: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU's runtimes in the place of the GPU's."""
    chosen = {"onnxruntime": RUNTIMES["onnxruntime"], "openvino": RUNTIMES["openvino"]}
    monkeypatch.setattr(gpu_suite, "RUNTIMES", chosen)
    for name in chosen:
        monkeypatch.setattr(type(runtime(name)), "device", lambda self: "GPU")
    report = gpu_suite.suite(Bundle.open(tiny_bundle), tmp_path / "r.json")
    for name, found in report["runtimes"].items():
        assert found["state"] == "ok", found
        assert found["psnr_db_against_fp32"] > 10 and found["wall_ms"] > 0 and found["batch"] == 8
        assert all(r["agrees"] for r in found["referee"].values())
        assert set(found["build_seconds"]) == ({"theta", "phi"} if name == "openvino" else set())
    assert np.isfinite(report["runtimes"]["openvino"]["load_seconds"])


def test_a_failure_is_a_finding() -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("a driver\nsays no")

    assert gpu_suite.finding(broken) == {"state": "failed", "why": "ValueError: a driver says no"}
    ran = {
        name: {"state": "ok", "wall_ms": ms}
        for name, ms in (("tensorrt", 2.0), ("tensorrt-fp16", 3.0), ("other", 1.0))
    }
    assert gpu_suite._gains({**ran, "x": {"state": "failed"}}) == {"tensorrt": 1.5}


def test_doctor_runs_the_suite(
    tiny_bundle: Path,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "--gpu-suite", str(tiny_bundle), "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)["gpu_suite"]["runtimes"]) == set(GPU)
    assert (tmp_path / "gpu-report.json").is_file()
