"""`edgegen build`: what is built on a machine is kept, found again while everything is the same,
never trusted when damaged.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgegen.cli.main import run
from edgegen.core.bundle import Bundle
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Compiling, Session
from edgegen.core.spec import Array
from edgegen.errors import RuntimeMissing, TrustError
from edgegen.export import RUNTIMES, cache, runtime
from edgegen.export.onnx import write
from edgegen.export.ov import OpenVino
from edgegen.export.tensorrt import TensorRt, TensorRtRtx

ENGINES = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no engine was built"
)
OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None, reason="openvino is not installed: nothing was built"
)
SEEDS = range(1000, 1004)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "built").glob("*.cached"))


@OPENVINO
def test_what_is_built_is_found_again_and_gives_the_same_images(
    tiny_bundle: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = Bundle.open(tiny_bundle).pipeline(runtime("openvino"))(SEEDS)
    assert run(["build", str(tiny_bundle), "--runtime", "openvino,onnxruntime", "--json"]) == 0
    built = json.loads(capfd.readouterr().out)["built"]
    assert [(b["runtime"], b["state"]) for b in built] == [("openvino", "built")] * 2
    assert sorted(b["path"] for b in built) == [str(p) for p in entries(kept)]
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in entries(kept))
    assert run(["build", str(tiny_bundle), "--runtime", "openvino", "--json"]) == 0
    assert {b["state"] for b in json.loads(capfd.readouterr().out)["built"]} == {"there"}
    asked: list[str] = []
    load = OpenVino.load

    def noted(self: OpenVino, built: Path, threads: int) -> Session:
        asked.append(built.suffix)
        return load(self, built, threads)

    monkeypatch.setattr(OpenVino, "load", noted)
    after = Bundle.open(tiny_bundle).pipeline(runtime("openvino"))(SEEDS)
    assert asked == [".cached"] * 2
    np.testing.assert_array_equal(before, after)


@OPENVINO
def test_a_damaged_entry_is_refused_and_build_replaces_it(
    tiny_bundle: Path,
    kept: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    generate = [
        "generate",
        str(tiny_bundle),
        "--runtime",
        "openvino",
        "-n",
        "2",
        "-o",
        str(tmp_path / "g.png"),
    ]
    assert run(["build", str(tiny_bundle), "--runtime", "openvino"]) == 0
    whole = entries(kept)[0].read_bytes()
    for damage in (
        whole[:-1],
        whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :],
        b"",
        b"{}\nabc",
        b"nothing",
    ):
        entries(kept)[0].write_bytes(damage)
        assert run(generate) == 6
        assert "error[E-CACHE] what was built here before is damaged" in capfd.readouterr().err
    assert run(["build", str(tiny_bundle), "--runtime", "openvino"]) == 0
    assert "built again" in capfd.readouterr().out
    assert run(generate) == 0
    entries(kept)[0].chmod(0o666)
    assert run(generate) == 6
    assert "others can write where engines are kept" in capfd.readouterr().err


@pytest.mark.export
@OPENVINO
def test_another_graph_version_or_processor_is_another_entry(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = runtime("openvino")
    assert isinstance(target, Compiling)
    theta, phi = (
        GraphFile.made_here(write(tiny.models()[g], tmp_path / f"{g}.onnx"))
        for g in ("theta", "phi")
    )
    path = target.compile(theta)
    assert target.compiled(theta) == path and target.compiled(phi) is None
    assert target.compile(theta) == path and entries(kept) == [path]
    with monkeypatch.context() as patched:
        patched.setattr(OpenVino, "version", lambda self: "1.0")
        assert target.compiled(theta) is None
    with monkeypatch.context() as patched:
        patched.setattr("edgegen.export.ov.processor", lambda: "another")
        assert target.compiled(theta) is None
    shutil.copyfile(phi.path, theta.path)
    assert target.compiled(theta) is None


def test_a_runtime_that_cannot_build_here_is_an_error_when_asked_for(
    tiny_bundle: Path,
    kept: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if runtime("tensorrt-rtx").cannot_run() is None:
        pytest.skip("there is a GPU here")
    assert run(["build", str(tiny_bundle), "--runtime", "tensorrt-rtx"]) == 5
    assert "tensorrt-rtx cannot build for this machine" in capfd.readouterr().err
    assert run(["build", str(tiny_bundle)]) == 0
    shown = capfd.readouterr().out
    assert "nothing to build: this runtime loads its files directly" in shown
    assert ("nothing to build: no CUDA device" in shown) == ("tensorrt-rtx" in tiny.RUNTIMES)
    assert run(["build", str(tiny_bundle), "--precision", "fp8"]) == 2


class OnThisMachine(TensorRtRtx):
    """As if there were a GPU: builds for SM86, and loads without executing."""

    here = "SM86"

    def cannot_run(self) -> str | None:
        return None

    def _facts(self) -> dict[str, str]:
        return {
            "runtime": self.name,
            "version": self.version(),
            "gpu": "a card",
            "capability": "SM86",
            "driver": "1",
        }

    def load(self, built: Path, threads: int) -> Any:
        assert built.suffix == ".cached" and len(cache.read(built)) > 10_000

        def session(**inputs: Array) -> Array:
            return next(iter(inputs.values()))

        return session


@ENGINES
def test_an_engine_built_here_needs_nobody_to_vouch_for_it(tiny_bundle: Path, kept: Path) -> None:
    bundle, target = Bundle.open(tiny_bundle), OnThisMachine()
    with pytest.raises(TrustError, match=r"or build them here: edgegen build"):
        bundle.pipeline(target)
    files = bundle.sources(target, "int8")
    first = target.compile(files["theta"])
    assert bundle.built_here(target, "int8") == {}, "one of two graphs is not a generator"
    assert bundle.built_here(target, "int8") == {} and target.compiled(files["theta"]) == first
    target.compile(files["phi"])
    assert set(bundle.pipeline(target).call) == {"theta", "phi"}
    assert bundle.built_here(target, "fp32") == {}


@pytest.mark.export
def test_enterprise_tensorrt_ships_as_onnx_and_is_built_on_the_target(tmp_path: Path) -> None:
    """It builds for the GPU it runs on, and the office has none."""
    target = TensorRt()
    assert target.missing() is None and not target.executable
    file = write(tiny.models()["theta"], tmp_path / "theta.onnx")
    (folder := tmp_path / "out").mkdir()
    assert target.build(file, folder) == (folder / "theta.onnx",)
    if target.cannot_run():
        with pytest.raises(RuntimeMissing):
            target.compile(GraphFile.made_here(file))


@pytest.mark.export
@pytest.mark.parametrize("name", [n for n in RUNTIMES if n.endswith("-fp16")])
def test_float16_beside_int8_is_a_runtime_that_quantizes_nothing(name: str) -> None:
    from edgegen.export import qdq

    made = qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), runtime(name).dialect)
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(n.op_type for n in made.graph.node)
    assert any(n.op_type == "Cast" for n in made.graph.node)
    assert type(runtime(name)).__mro__[1] is type(runtime(name.removesuffix("-fp16")))


def test_a_bundle_without_files_for_a_runtime_says_which_it_has(
    tiny_bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Bundle.open(tiny_bundle).onnx(runtime("tensorrt-fp16"), "int8") == {}
    assert run(["build", str(tiny_bundle), "--runtime", "tensorrt-fp16"]) == 2
    assert (
        "the bundle has no INT8 files for tensorrt-fp16; it has onnxruntime, openvino"
        in capfd.readouterr().err
    )
