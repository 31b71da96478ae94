"""What every runtime promises: what torch computes, or a sentence that says why not; no network,
nothing outside its folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny
from loading import loaded, running
from onnx import TensorProto, helper

from edgegen.core.offline import OFFLINE
from edgegen.errors import InputError, RuntimeMissing, UsageError
from edgegen.evidence import parity
from edgegen.export import RUNTIMES, packages, qdq, runtime
from edgegen.export.onnx import write

NEEDS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt-rtx": "tensorrt_rtx",
    "tensorrt": "tensorrt",
    "tensorrt-rtx-fp16": "tensorrt_rtx",
    "tensorrt-fp16": "tensorrt",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "onnxruntime-openvino": "onnxruntime",
    "reference": "onnx",
}
# ship as ONNX
ON_TARGET = (
    "tensorrt",
    "tensorrt-fp16",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-openvino",
)


@pytest.mark.export
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", ["theta", "phi"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_full_precision_is_what_torch_computes(
    name: str, graph: str, batch: int, tmp_path: Path
) -> None:
    target = running(name)
    session = loaded(target, graph, tmp_path, int8=False)
    for inputs in tiny.calls()[graph][::2]:
        few = {k: v[:batch] for k, v in inputs.items()}
        wanted = tiny.torch_images().call[graph](**few)
        found = session(**few)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.export
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", ["theta", "phi"])
@pytest.mark.parametrize("name", [n for n in RUNTIMES if n != "reference"])
def test_int8_is_what_the_file_says(name: str, graph: str, batch: int, tmp_path: Path) -> None:
    target, judge = running(name), runtime("reference")
    session = loaded(target, graph, tmp_path, int8=True)
    (r := tmp_path / "r").mkdir()
    (f := tmp_path / "f").mkdir()
    reference = judge.load(
        write(qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect), r / "g.onnx"),
        1,
    )
    full = runtime("onnxruntime").load(write(tiny.models()[graph], f / "g.onnx"), 1)
    calls = [{k: v[:batch] for k, v in c.items()} for c in tiny.calls()[graph][::2]]
    parity.check_referee(name, {graph: parity.referee(session, reference, full, calls)})


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_package_is_a_sentence_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        packages, "find_spec", lambda module: None if module == NEEDS[name] else find_spec(module)
    )
    target = runtime(name)
    said = target.cannot_run()
    assert said is not None and said.startswith(
        f'{NEEDS[name]} is not installed: pip install "edgegen['
    )
    assert target.missing() == (None if name in ON_TARGET else said)
    with pytest.raises(RuntimeMissing, match=f"{NEEDS[name]} is not installed"):
        target.load(tmp_path / "x", 1)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_says_who_it_is(name: str) -> None:
    target = runtime(name)
    assert target.name == name and target.device() in ("CPU", "GPU")
    # a distribution of its own
    there = find_spec(NEEDS[name]) is not None and name != "onnxruntime-openvino"
    assert target.version()[0].isdigit() if there else target.version() == "not installed"


def test_an_unknown_runtime_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"unknown runtime 'tensorflow'; known: onnxruntime, openvino, tensorrt-rtx, tensorrt",
    ):
        runtime("tensorflow")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", [b"", b"hello", b"<xml", b"\x08\x08\x12\x00"])
def test_a_corrupt_file_is_our_sentence(name: str, damage: bytes, tmp_path: Path) -> None:
    target = running(name)
    path = tmp_path / ("g.xml" if name == "openvino" else "g.onnx")
    path.write_bytes(damage)
    with pytest.raises(InputError, match="cannot load it") as caught:
        target.load(path, 1)
    assert (
        caught.value.exit_code == 4
        and caught.value.path == str(path)
        and "\n" not in str(caught.value)
    )


@pytest.mark.export
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
from edgegen.machine.probe import TINY
place = Path(sys.argv[1]); (place / "t.onnx").write_bytes(TINY)
target = runtime(sys.argv[2])
session = target.load(target.build(place / "t.onnx", place)[0], 1)
assert (session(x=np.ones((1, 1, 2, 2), np.float32)) == 2).all()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is not installed: no system call was watched"
)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_calls_nobody_and_leaves_nothing_at_home(name: str, tmp_path: Path) -> None:
    """OpenVINO and ONNX Runtime both send telemetry unless told; both are silent where CI is set,
    so CI is unset here.
    """
    running(name)
    (home := tmp_path / "home").mkdir()
    (place := tmp_path / "place").mkdir()
    told = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", *OFFLINE)
    env = {k: v for k, v in os.environ.items() if k not in told}
    env |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    log = tmp_path / "log"
    done = subprocess.run(
        [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=connect,sendto",
            "-o",
            str(log),
            sys.executable,
            "-c",
            QUIET,
            str(place),
            name,
        ],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "ptrace" in done.stderr and "not permitted" in done.stderr.lower():
        pytest.skip("strace may not trace here: no system call was watched")
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in log.read_text().splitlines() if "AF_INET" in line] == []
    assert [str(p) for p in home.rglob("*")] == []


SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
import edgegen
from edgegen.machine.probe import TINY
from edgegen.export import runtime
place = Path(sys.argv[1]); (place / "t.onnx").write_bytes(TINY)
target = runtime(sys.argv[2])
first, second = (target.load(place / "t.onnx", 1) for _ in range(2))
del first; gc.collect()
del second; gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_ctrl_c_still_works_after_sessions_have_come_and_gone(name: str, tmp_path: Path) -> None:
    """On processors with AMX, OpenVINO cores that end in the order they began left a freed signal
    stack: SIGSEGV instead.
    """
    running(name)
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(tmp_path), name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_the_referee_is_silent_about_numbers_that_its_own_code_drops(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "x"],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "y"],
    )
    path = write(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "g.onnx",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = runtime("reference").load(path, 1)(x=np.array([200, -200], np.float32))
    np.testing.assert_array_equal(found, [1, 0])
