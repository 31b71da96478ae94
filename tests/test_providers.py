"""ONNX Runtime's execution providers: what was asked for runs, or the error says what is missing;
never the CPU unasked.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.runtime import placement
from edgegen.errors import RuntimeMissing
from edgegen.export import RUNTIMES, executing, ort, runtime
from edgegen.export.onnx import write

onnxruntime = pytest.importorskip("onnxruntime")
PROVIDERS = [name for name in RUNTIMES if name.startswith("onnxruntime-")]
Captured = pytest.CaptureFixture[str]


@pytest.mark.export
@pytest.mark.parametrize("name", PROVIDERS)
def test_what_is_missing_is_named(name: str, tmp_path: Path) -> None:
    target = runtime(name)
    if (why := target.cannot_run()) is None:
        pytest.skip(f"{name} runs here")
    provider = type(target).provider  # type: ignore[attr-defined]
    assert provider in why and ("cannot be loaded: lib" in why or "only " in why)
    with pytest.raises(RuntimeMissing, match=provider) as caught:
        target.load(write(tiny.models()["theta"], tmp_path / "g.onnx"), 1)
    assert caught.value.exit_code == 5
    assert target.missing() is None, "its files can be written anywhere"


@pytest.mark.export
@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_session_that_falls_back_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime itself only warns."""
    if runtime(name).cannot_run() is None:
        pytest.skip(f"{name} runs here")
    target = runtime(name)
    monkeypatch.setattr(target, "cannot_run", lambda: None)
    with pytest.raises(
        RuntimeMissing,
        match=r"E-EP-FALLBACK\] asked for \w+ExecutionProvider, got CPUExecutionProvider",
    ):
        target.load(write(tiny.models()["theta"], tmp_path / "g.onnx"), 1)


@pytest.mark.parametrize(
    ("left", "refused"), [({"Shape", "Gather"}, False), ({"Conv", "Shape"}, True)]
)
def test_convolutions_left_to_the_cpu_are_refused(
    left: set[str],
    refused: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def part(provider: str, ops: set[str]) -> Any:
        return SimpleNamespace(
            ep_name=provider, get_nodes=lambda: [SimpleNamespace(op_type=op) for op in sorted(ops)]
        )

    parts = [part("CUDAExecutionProvider", {"Conv", "Relu"}), part("CPUExecutionProvider", left)]
    session = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: parts,
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: session)
    target = ort.OnnxRuntimeCuda()
    monkeypatch.setattr(target, "cannot_run", lambda: None)
    (tmp_path / "g.onnx").write_bytes(b"that session reads no file")
    if refused:
        with pytest.raises(
            RuntimeMissing,
            match=r"E-EP-PARTIAL\] CUDAExecutionProvider leaves Conv nodes to the CPU",
        ) as caught:
            target.load(tmp_path / "g.onnx", 1)
        assert caught.value.details["placement"] == {
            "CUDAExecutionProvider": 2,
            "CPUExecutionProvider": 2,
        }
    else:
        assert placement({"g": target.load(tmp_path / "g.onnx", 1)}) == {
            "g": {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 2}
        }


def test_where_nodes_run_is_known_and_recorded(tiny_bundle: Path, capfd: Captured) -> None:
    bundle = Bundle.open(tiny_bundle)
    found = placement(bundle.pipeline(runtime("onnxruntime"), "fp32").call)
    nodes = {graph: len(model.graph.node) for graph, model in tiny.models().items()}
    assert {g: set(p) for g, p in found.items()} == {g: {"CPUExecutionProvider"} for g in nodes}
    assert all(0.5 * nodes[g] < p["CPUExecutionProvider"] <= nodes[g] for g, p in found.items())
    recorded = bundle.manifest.evidence["runtimes"]["onnxruntime"]["placement"]
    assert set(recorded) == set(nodes) and all(
        set(p) == {"CPUExecutionProvider"} for p in recorded.values()
    )
    assert run(["bench", str(tiny_bundle), "--rounds", "5", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)["placement"]
    assert shown["onnxruntime INT8"]["theta"].keys() == {"CPUExecutionProvider"}


def test_the_cpu_steps_in_only_when_it_is_allowed_to_and_loudly(
    tiny_bundle: Path, tmp_path: Path, capfd: Captured
) -> None:
    if (
        "tensorrt-rtx" not in Bundle.open(tiny_bundle).manifest.runtimes
        or runtime("tensorrt-rtx").cannot_run() is None
    ):
        pytest.skip("nothing that cannot run here is in the bundle")
    out = str(tmp_path / "g.png")
    command = [
        "generate",
        str(tiny_bundle),
        "--runtime",
        "tensorrt-rtx",
        "--trust-engines",
        "-n",
        "2",
        "-o",
        out,
    ]
    assert run(command) == 5
    said = capfd.readouterr().err
    assert "tensorrt-rtx does not run here: no CUDA device" in said and "add --allow-cpu" in said
    assert not (tmp_path / "g.png").exists()
    assert run([*command, "--allow-cpu"]) == 0
    shown, host = capfd.readouterr(), executing(runtime("tensorrt-rtx")).name
    assert (
        f"{host} executes its files on the CPU" in shown.err
        and f"executed by {host} on the CPU" in shown.out
    )
    assert run(["verify", str(tiny_bundle), "--runtime", "tensorrt-rtx", "--trust-engines"]) == 5
    assert "add --allow-cpu" in capfd.readouterr().err
