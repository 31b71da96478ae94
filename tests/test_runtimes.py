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
from onnx import TensorProto, helper

import edgegen
from edgegen.core.runtime import Runtime, Session
from edgegen.errors import EdgegenError, InputError, RuntimeMissing, UsageError
from edgegen.evidence import parity
from edgegen.export import RUNTIMES, engine, packages, qdq, runtime
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
ENGINES = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no engine was built"
)


def running(name: str) -> Runtime:
    found = runtime(name)
    if why := found.cannot_run():
        pytest.skip(f"{name} does not run here: {why}")
    return found


def loaded(target: Runtime, graph: str, folder: Path, int8: bool) -> Session:
    model = (
        qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect)
        if int8
        else tiny.models()[graph]
    )
    (source := folder / "source").mkdir()
    (built := folder / "built").mkdir()
    paths = target.build(write(model, source / f"{graph}.onnx"), built)
    assert all(p.parent == built for p in paths) and sorted(paths) == sorted(built.iterdir())
    assert list(source.iterdir()) == [source / f"{graph}.onnx"]
    return target.load(paths[0], 1)


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
    told = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", *edgegen.OFFLINE)
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


@ENGINES
def test_engines_are_built_without_a_gpu_and_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real graph: on a net of two layers the builder's internal numbering has nothing to differ
    in.

    Three builds, of which two agree for each capability: on a loaded machine one engine in some
    dozens has differed.
    """
    target = runtime("tensorrt-rtx")
    made = []
    for part in ("a", "another-folder-with-a-longer-name", "c"):
        (folder := tmp_path / part).mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SOMETHING", part)
        file = write(
            qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), target.dialect),
            folder / "g.onnx",
        )
        paths = target.build(file, folder)
        assert [p.name for p in paths] == [
            f"g.{sm}.engine" for sm in ("SM75", "SM80", "SM86", "SM89", "SM120")
        ]
        made.append([p.read_bytes() for p in paths])
    assert all(len(set(builds)) < 3 for builds in zip(*made, strict=True))
    assert min(map(len, made[0])) > 100_000 and len(set(made[0])) == 5
    if why := target.cannot_run():
        with pytest.raises(RuntimeMissing, match=r"error\[E-GPU\]") as caught:
            target.load(paths[0], 1)
        assert why in str(caught.value) and caught.value.exit_code == 5


@ENGINES
def test_a_builder_that_crashes_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(
        "import os\n\n\ndef __getattr__(name):\n    os.kill(os.getpid(), 11)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        assert engine.engines("crashing", b"", ("SM80",)) == (
            "E-TRT-BUILD",
            "TensorRT crashed with SIGSEGV for SM80",
        )
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
    nodes = [
        helper.make_node("Det", ["x"], ["d"], "odd_one"),
        helper.make_node("Unsqueeze", ["d", "axes"], ["u"], "u"),
        helper.make_node("Add", ["x", "u"], ["y"], "a"),
    ]
    model = tiny.graph_of(nodes, [helper.make_tensor("axes", 7, [2], [2, 3])], 8, 8)
    with pytest.raises(
        EdgegenError, match=r"E-TRT-PARSE\] TensorRT refuses node odd_one \(Det\): it has no such"
    ) as caught:
        runtime("tensorrt-rtx").build(write(model, tmp_path / "g.onnx"), tmp_path)
    assert str(caught.value.path).endswith("g.onnx") and list(tmp_path.iterdir()) == [
        tmp_path / "g.onnx"
    ]


@ENGINES
def test_the_builder_s_refusal_names_the_node_of_the_graph() -> None:
    """The parser takes a float32 matrix product, and the builder has none for Turing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Relu", ["p"], ["y"], "relu"),
    ]
    model = tiny.graph_of(nodes, [helper.make_tensor("w", 1, [8, 8], np.ones(64))], 8, 8)
    said = engine.engines("tensorrt_rtx", model.SerializeToString(), ("SM75",))
    assert said == (
        "E-TRT-BUILD",
        "TensorRT cannot build node product for SM75: Cannot compile operation 'product' for "
        "Turing "
        "(SM75): FP32 GEMM is not supported",
    )


@ENGINES
def test_a_graph_varies_in_its_batch_alone() -> None:
    model = tiny.conv_net((16, 16))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    said = engine.engines("tensorrt_rtx", model.SerializeToString(), ("SM86",))
    assert said == ("E-TRT-AXIS", "axis 2 of input x varies as 'height'; only 'batch' may vary")


@pytest.mark.parametrize(
    ("logged", "sentence"),
    [
        (
            "Invalid Node - b\nITensor::getDimensions: Error Code 4: API Usage Error (b: input has "
            "type Int32 but must have Int8. "
            "In checkType at /_src/n.cpp:4)\n[c::catch::2] Error Code 1: Cuda Runtime (In f at "
            "/_src/c.cpp:1)",
            "b: input has type Int32 but must have Int8",
        ),
        (
            "Assertion failed: status.is_success(): Found unsupported input type of UINT8",
            "Found unsupported input type of UINT8",
        ),
        ("something new", "something new"),
        ("", "no reason given"),
        ("false", "it has no such operator"),
    ],
)
def test_the_sentence_in_what_tensorrt_logs(logged: str, sentence: str) -> None:
    assert engine.reason(logged) == sentence


@ENGINES
def test_times_of_kernels_are_kept_where_a_file_is_given(tmp_path: Path) -> None:
    """TensorRT-RTX keeps none: its cache is a header."""
    for _ in range(2):
        made = engine.engines(
            "tensorrt_rtx",
            tiny.conv_net((16, 16)).SerializeToString(),
            ("SM86",),
            (1, 2, 4),
            tmp_path / "t",
        )
        assert (
            isinstance(made, list)
            and [p.name for p in tmp_path.iterdir()] == ["t"]
            and (tmp_path / "t").stat().st_size > 0
        )


@ENGINES
def test_an_engine_is_chosen_by_the_gpu_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed to see which file is asked for."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    target = runtime("tensorrt-rtx")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    why = target.cannot_run()
    assert (
        why
        == "engines are built for SM75, SM80, SM86, SM89, SM120, and the GPU of this machine is "
        "SM90"
    )
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
    parity.check_referee(
        target.name, {graph: parity.referee(session, judge, full, tiny.calls()[graph])}
    )


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
