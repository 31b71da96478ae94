"""Engines of TensorRT-RTX: built without a GPU, deterministic; a refusal names the node."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from loading import ENGINES, loaded, running
from onnx import helper

from edgegen.errors import EdgegenError, InputError, RuntimeMissing
from edgegen.evidence import parity
from edgegen.export import engine, qdq, runtime
from edgegen.export.onnx import write

pytestmark = pytest.mark.slow


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
