"""Who executes what its own runtime cannot here: the same integers, the fastest that is exact, and
ONNX Runtime where nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, numpy_helper

from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Dialect, Runtime
from edgegen.errors import UsageError
from edgegen.evidence import parity
from edgegen.export import executing, packages, qdq, runtime, stand_ins
from edgegen.export.onnx import write
from edgegen.export.stand_ins import FloatOnnxRuntime, UnsignedOpenVino, is_exact, stand_in
from edgegen.export.unsigned import unsigned

RTX = runtime("tensorrt-rtx").dialect
SIGNED = {
    "tensorrt-rtx": RTX,
    "float32 islands": replace(RTX, floats="float32"),
    "outputs quantized": replace(RTX, floats="float32", outputs=True),
    "asymmetric": replace(RTX, floats="float32", symmetric=False),
}


@pytest.fixture(autouse=True)
def tried_again() -> Iterator[None]:
    """What a test finds out about this machine under other conditions is not kept."""
    is_exact.cache_clear()
    yield
    is_exact.cache_clear()


def concat_net() -> tuple[onnx.ModelProto, Any]:
    model = tiny.conv_net((8, 16), (16, 16), (16, 8), concat=True)
    return model, tiny.everything_int8(model)


def run(host: Runtime, model: onnx.ModelProto, folder: Path, x: np.ndarray) -> np.ndarray:
    return host.load(write(model, folder / f"{len(list(folder.iterdir()))}.onnx"), 1)(x=x)


@pytest.mark.parametrize("dialect", SIGNED.values(), ids=SIGNED)
def test_unsigned_files_compute_the_same_to_the_bit(dialect: Dialect, tmp_path: Path) -> None:
    model, plan = concat_net()
    file = qdq.quantize(model, "g", plan, dialect)
    before = file.SerializeToString(deterministic=True)
    moved = unsigned(file)
    assert file.SerializeToString(deterministic=True) == before
    x = np.random.default_rng(1).normal(0, 2, (5, 8, 8, 8)).astype(np.float32)
    x[0] *= 100  # beyond what the codes reach: cut off alike
    for name in ("onnxruntime", "reference"):
        made = [run(runtime(name), m, tmp_path, x) for m in (file, moved)]
        assert made[0].tobytes() == made[1].tobytes() and np.ptp(made[0]) > 0
    kinds = {t.name: t.data_type for t in moved.graph.initializer}
    zeros = {n.input[2]: n.op_type for n in moved.graph.node if n.op_type == "QuantizeLinear"}
    assert zeros and all(kinds[zero] == TensorProto.UINT8 for zero in zeros)
    weights = [n for n in kinds if n.endswith(".int")]
    assert weights and all(kinds[name] == TensorProto.INT8 for name in weights)
    assert len(kinds) == len(file.graph.initializer)  # no zero point is left behind


@pytest.mark.export
def test_the_graphs_of_a_generator_compute_the_same_unsigned(tmp_path: Path) -> None:
    for graph, model in tiny.models().items():
        file = qdq.quantize(model, graph, tiny.plan(), RTX)
        first, second = (
            runtime("onnxruntime").load(write(m, tmp_path / f"{graph}{k}.onnx"), 1)
            for k, m in enumerate((file, unsigned(file)))
        )
        for inputs in tiny.calls()[graph]:
            assert first(**inputs).tobytes() == second(**inputs).tobytes()


def test_what_is_unsigned_already_or_read_as_integers_stays_as_it_is() -> None:
    model, plan = concat_net()
    file = qdq.quantize(model, "g", plan, runtime("openvino").dialect)
    assert unsigned(file).SerializeToString() == file.SerializeToString()
    signed = qdq.quantize(model, "g", plan, replace(RTX, floats="float32"))
    pair = next(n for n in signed.graph.node if n.op_type == "QuantizeLinear")
    signed.graph.node.append(
        onnx.helper.make_node("Cast", [pair.output[0]], ["seen"], "Seen", to=TensorProto.FLOAT)
    )
    value = onnx.helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["batch", 8, 8, 8])
    signed.graph.output.append(value)
    moved = {n.name: n for n in unsigned(signed).graph.node}
    assert moved[pair.name].input[2] == pair.input[2]
    others = [n for n in signed.graph.node if n.op_type == "QuantizeLinear" and n.name != pair.name]
    assert all(moved[n.name].input[2] == f"{n.input[2]}.unsigned" for n in others) and others


def test_weights_that_a_file_quantizes_itself_stay_signed() -> None:
    """Kernels multiply signed weights, however a file writes them."""
    model = tiny.conv_net((8, 8))
    codes = {"s": np.float32(0.1), "z": np.int8(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in codes.items()
    )
    for place, tensor in enumerate(("x", "c0.weight")):
        for op, reads, makes in (
            ("Q", tensor, f"{tensor}.q"),
            ("Dq", f"{tensor}.q", f"{tensor}.dq"),
        ):
            kind = "QuantizeLinear" if op == "Q" else "DequantizeLinear"
            model.graph.node.insert(
                len(model.graph.node) - 1, onnx.helper.make_node(kind, [reads, "s", "z"], [makes])
            )
        model.graph.node[-1].input[place] = f"{tensor}.dq"
    moved = unsigned(model).graph.node
    assert [n.input[2] for n in moved[:4]] == ["z.unsigned", "z.unsigned", "z", "z"]


def small_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such that no 16-bit sum of two products overflows, on any processor."""
    activations, weights = stand_ins._integers()
    monkeypatch.setattr(stand_ins, "_integers", lambda: (activations, weights // 4))


def test_trials_tell_exact_kernels_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_exact(FloatOnnxRuntime)
    small_integers(monkeypatch)
    is_exact.cache_clear()
    assert is_exact(FloatOnnxRuntime) and is_exact(UnsignedOpenVino)

    class Wrong(FloatOnnxRuntime):
        def session(self, file: GraphFile, threads: int) -> Any:
            session = super().session(file, threads)
            return lambda **inputs: session(**inputs) * np.float32(1.001)

    assert not is_exact(Wrong)


def test_the_fastest_that_is_exact_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    target = runtime("tensorrt")
    answers = {UnsignedOpenVino: True, FloatOnnxRuntime: True}
    monkeypatch.setattr(stand_ins, "is_exact", answers.__getitem__)
    assert stand_in(target).name == "openvino"
    answers[UnsignedOpenVino] = False
    assert isinstance(stand_in(target), FloatOnnxRuntime)
    answers[UnsignedOpenVino] = True
    assert stand_in(runtime("onnxruntime")).name == "onnxruntime"  # its kernels write int8
    assert stand_in(runtime("tensorrt-fp16")).name == "onnxruntime"


def test_without_openvino_or_onnx_it_is_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "is_exact", lambda kind: True)
    for lacking in ("openvino", "onnx"):
        monkeypatch.setattr(
            packages, "find_spec", lambda name, no=lacking: None if name == no else find_spec(name)
        )
        assert stand_in(runtime("tensorrt")).name == "onnxruntime"


def test_what_runs_here_executes_its_own_files() -> None:
    for name in ("onnxruntime", "openvino"):
        target = runtime(name)
        assert executing(target) is target
    if runtime("tensorrt-rtx").cannot_run():
        assert executing(runtime("tensorrt-rtx")).name in ("onnxruntime", "openvino")


@pytest.mark.export
@pytest.mark.parametrize("graph", ["theta", "phi"])
@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt"])
def test_the_stand_in_computes_what_the_file_says(name: str, graph: str, tmp_path: Path) -> None:
    host, target = stand_in(runtime(name)), runtime(name)
    file = write(
        qdq.quantize(tiny.models()[graph], graph, tiny.plan(), target.dialect), tmp_path / "q.onnx"
    )
    full = runtime("onnxruntime").load(write(tiny.models()[graph], tmp_path / "f.onnx"), 1)
    refereed = parity.referee(
        host.load(file, 1), runtime("reference").load(file, 1), full, tiny.calls()[graph], half=True
    )
    parity.check_referee(name, {graph: refereed})


def test_signed_activations_behind_a_concat_never_reach_openvino(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it stands in, it is given unsigned ones; small integers are exact on every machine."""
    model, plan = concat_net()
    file = write(qdq.quantize(model, "g", plan, RTX), tmp_path / "q.onnx")
    seen: list[onnx.ModelProto] = []

    def session(self: Any, given: GraphFile, threads: int) -> None:
        seen.append(onnx.load_from_string(given.data()))

    monkeypatch.setattr("edgegen.export.ov.OpenVino.session", session)
    UnsignedOpenVino().load(file, 1)
    (given,) = seen
    types = {t.name: numpy_helper.to_array(t).dtype for t in given.graph.initializer}
    zeros = [n.input[2] for n in given.graph.node if n.op_type == "QuantizeLinear"]
    assert zeros and all(types[zero] == np.uint8 for zero in zeros)


def test_unknown_runtimes_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown runtime"):
        executing(runtime("tensorflow"))
