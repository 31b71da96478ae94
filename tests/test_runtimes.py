"""What every runtime promises: what torch computes, or a sentence that says why not; no network, nothing outside its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny
from onnx import helper

import edgegen
from edgegen.core.runtime import Runtime, Session
from edgegen.errors import EdgegenError, InputError, RuntimeMissing, UsageError
from edgegen.evidence import parity
from edgegen.export import RUNTIMES, engine, packages, qdq, runtime
from edgegen.export.onnx import write

NEEDS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt",
         "reference": "onnx"}
ENGINES = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no engine was built")


def running(name: str) -> Runtime:
    found = runtime(name)
    if why := found.cannot_run():
        pytest.skip(f"{name} does not run here: {why}")
    return found


def loaded(target: Runtime, graph: str, folder: Path, int8: bool) -> Session:
    model = qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect) if int8 else tiny.models()[graph]
    (source := folder / "source").mkdir()
    (built := folder / "built").mkdir()
    paths = target.build(write(model, source / f"{graph}.onnx"), built)
    assert all(p.parent == built for p in paths) and sorted(paths) == sorted(built.iterdir())
    assert list(source.iterdir()) == [source / f"{graph}.onnx"]
    return target.load(paths[0], 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", ["theta", "phi"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_full_precision_is_what_torch_computes(name: str, graph: str, batch: int, tmp_path: Path) -> None:
    target = running(name)
    session = loaded(target, graph, tmp_path, int8=False)
    for inputs in tiny.calls()[graph][::2]:
        few = {k: v[:batch] for k, v in inputs.items()}
        wanted = tiny.torch_images().call[graph](**few)
        found = session(**few)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", ["theta", "phi"])
@pytest.mark.parametrize("name", [n for n in RUNTIMES if n != "reference"])
def test_int8_is_what_the_file_says(name: str, graph: str, batch: int, tmp_path: Path) -> None:
    target, judge = running(name), runtime("reference")
    session = loaded(target, graph, tmp_path, int8=True)
    (r := tmp_path / "r").mkdir()
    (f := tmp_path / "f").mkdir()
    reference = judge.load(write(qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect), r / "g.onnx"), 1)
    full = runtime("onnxruntime").load(write(tiny.models()[graph], f / "g.onnx"), 1)
    calls = [{k: v[:batch] for k, v in c.items()} for c in tiny.calls()[graph][::2]]
    parity.check_referee(name, {graph: parity.referee(session, reference, full, calls)})


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_package_is_a_sentence_with_the_command(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda module: None if module == NEEDS[name] else find_spec(module))
    target = runtime(name)
    said = target.missing()
    assert said is not None and said.startswith(f'{NEEDS[name]} is not installed: pip install "edgegen[')
    assert target.cannot_run() == said
    with pytest.raises(RuntimeMissing, match=f"{NEEDS[name]} is not installed"):
        target.load(tmp_path / "x", 1)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_says_who_it_is(name: str) -> None:
    target = runtime(name)
    assert target.name == name and target.device() in ("CPU", "GPU")
    assert target.version() == "not installed" if find_spec(NEEDS[name]) is None else target.version()[0].isdigit()


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown runtime 'tensorflow'; known: onnxruntime, openvino, tensorrt-rtx, tensorrt"):
        runtime("tensorflow")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", [b"", b"hello", b"<xml", b"\x08\x08\x12\x00"])
def test_a_corrupt_file_is_our_sentence(name: str, damage: bytes, tmp_path: Path) -> None:
    target = running(name)
    path = tmp_path / ("g.xml" if name == "openvino" else "g.onnx")
    path.write_bytes(damage)
    with pytest.raises(InputError, match="cannot load it") as caught:
        target.load(path, 1)
    assert caught.value.exit_code == 4 and caught.value.path == str(path) and "\n" not in str(caught.value)


def test_openvino_files_hold_no_path_and_are_deterministic(tmp_path: Path) -> None:
    target = running("openvino")
    made = []
    for part in ("a", "b"):
        (folder := tmp_path / part).mkdir()
        paths = target.build(write(tiny.models()["theta"], folder / "theta.onnx"), folder)
        made.append([p.read_bytes() for p in paths])
        assert not any(str(tmp_path).encode() in data for data in made[-1])
    assert made[0] == made[1]


QUIET = """
import sys, edgegen, numpy as np
from pathlib import Path
from edgegen.export import runtime
from edgegen.cli.probe import TINY
place = Path(sys.argv[1]); (place / "t.onnx").write_bytes(TINY)
target = runtime(sys.argv[2])
session = target.load(target.build(place / "t.onnx", place)[0], 1)
assert (session(x=np.ones((1, 1, 2, 2), np.float32)) == 2).all()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: no system call was watched")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_calls_nobody_and_leaves_nothing_at_home(name: str, tmp_path: Path) -> None:
    """OpenVINO and ONNX Runtime both send telemetry unless told; both are silent where CI is set, so CI is unset here."""
    running(name)
    (home := tmp_path / "home").mkdir()
    (place := tmp_path / "place").mkdir()
    told = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", *edgegen.OFFLINE)
    env = {k: v for k, v in os.environ.items() if k not in told}
    env |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    log = tmp_path / "log"
    done = subprocess.run(["strace", "-f", "-qq", "-e", "trace=connect,sendto", "-o", str(log), sys.executable, "-c", QUIET,
                           str(place), name], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "ptrace" in done.stderr and "not permitted" in done.stderr.lower():
        pytest.skip("strace may not trace here: no system call was watched")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in log.read_text().splitlines() if "AF_INET" in line] == []
    assert [str(p) for p in home.rglob("*")] == []


@ENGINES
def test_engines_are_built_without_a_gpu_and_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real graph: on a net of two layers the builder's internal numbering has nothing to differ in."""
    target = runtime("tensorrt-rtx")
    made = []
    for part in ("a", "another-folder-with-a-longer-name"):
        (folder := tmp_path / part).mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SOMETHING", part)
        file = write(qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), target.dialect), folder / "g.onnx")
        paths = target.build(file, folder)
        assert [p.name for p in paths] == [f"g.{sm}.engine" for sm in ("SM80", "SM86", "SM89", "SM120")]
        made.append([p.read_bytes() for p in paths])
    assert made[0] == made[1] and min(map(len, made[0])) > 100_000 and len(set(made[0])) == 4
    if why := target.cannot_run():
        with pytest.raises(RuntimeMissing, match=r"error\[E-GPU\]") as caught:
            target.load(paths[0], 1)
        assert why in str(caught.value) and caught.value.exit_code == 5


@ENGINES
def test_a_builder_that_crashes_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text("import os\n\n\ndef __getattr__(name):\n    os.kill(os.getpid(), 11)\n")
    sys.path.insert(0, str(tmp_path))
    try:
        assert engine.engines("crashing", b"", ("SM80",)) == ("E-TRT-BUILD", "TensorRT crashed with SIGSEGV for SM80")
        code, said = engine.engines("no_such_package", b"", ("SM80",))
    finally:
        sys.path.remove(str(tmp_path))
    assert code == "E-TRT-BUILD" and "No module named 'no_such_package'" in str(said)


@ENGINES
@pytest.mark.parametrize("damage", [b"hello", b"", b"\x00" * 100])
def test_tensorrt_never_sees_bytes_the_checker_refuses(damage: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "g.onnx").write_bytes(damage)
    with pytest.raises(InputError, match=r"E-ONNX-PARSE\] not a usable ONNX file"):
        runtime("tensorrt-rtx").build(path, tmp_path)


@ENGINES
def test_an_operator_tensorrt_does_not_know_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["d"], "odd_one"), helper.make_node("Unsqueeze", ["d", "axes"], ["u"], "u"),
             helper.make_node("Add", ["x", "u"], ["y"], "a")]
    model = tiny.graph_of(nodes, [helper.make_tensor("axes", 7, [2], [2, 3])], 8, 8)
    with pytest.raises(EdgegenError, match=r"E-TRT-PARSE\] TensorRT refuses node odd_one: ") as caught:
        runtime("tensorrt-rtx").build(write(model, tmp_path / "g.onnx"), tmp_path)
    assert str(caught.value.path).endswith("g.onnx") and list(tmp_path.iterdir()) == [tmp_path / "g.onnx"]


@ENGINES
def test_an_engine_is_chosen_by_the_gpu_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed to see which file is asked for."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    target = runtime("tensorrt-rtx")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    why = target.cannot_run()
    assert why == "engines are built for SM80, SM86, SM89, SM120, and the GPU of this machine is SM90"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert target.cannot_run() is None
    (tmp_path / "g.SM80.engine").write_bytes(b"")
    with pytest.raises(RuntimeMissing, match=r"there is no engine for this GPU: g\.SM89\.engine"):
        target.load(tmp_path / "g.SM80.engine", 1)


@pytest.mark.gpu
@ENGINES
@pytest.mark.parametrize("graph", ["theta", "phi"])
def test_tensorrt_rtx_computes_what_its_file_says(graph: str, tmp_path: Path) -> None:
    target = running("tensorrt-rtx")
    session = loaded(target, graph, tmp_path, int8=True)
    judge = runtime("reference").load(tmp_path / "source" / f"{graph}.onnx", 1)
    full = runtime("onnxruntime").load(write(tiny.models()[graph], tmp_path / "f.onnx"), 1)
    parity.check_referee(target.name, {graph: parity.referee(session, judge, full, tiny.calls()[graph])})
