"""Float weights of INT8 files in half the bytes: which are stored so, that a runtime computes with
them in float32, and what every reader of a file sees of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from graphs import one_conv
from onnx import TensorProto, helper, numpy_helper

from edgegen.core import weight_file
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.core.spec import Array
from edgegen.core.weights import WORTH_HALVING, GraphConstants, is_apart, total_bytes
from edgegen.export import qdq, runtime
from edgegen.export.lint import lint
from edgegen.export.onnx import write
from edgegen.export.ov import OpenVino
from edgegen.export.storage import BOUND, in_half, store

HALF, FULL = Dialect(stored="float16"), Dialect()
RUNTIMES = ("onnxruntime", "openvino")
RNG = np.random.default_rng(0)
W = RNG.standard_normal((64, 64)).astype(np.float32)


def product(weight: Array = W, **others: np.ndarray) -> onnx.ModelProto:
    """y = x @ w + b, x (batch, in)."""
    held: dict[str, np.ndarray] = {"w": weight, "b": np.ones(weight.shape[1], np.float32), **others}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Add", ["m", "b"], ["y"], "sum"),
    ]
    value, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", kind, ["batch", weight.shape[0]])],
        [value("y", kind, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(v, n) for n, v in held.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in model.graph.initializer}


def stored(model: onnx.ModelProto) -> onnx.ModelProto:
    store(model, HALF)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_a_matrix_of_size_is_stored_in_float16_and_read_as_float32() -> None:
    model = stored(product())
    assert kinds(model) == {"w.stored": TensorProto.FLOAT16, "b": TensorProto.FLOAT}
    (cast,) = (n for n in model.graph.node if n.op_type == "Cast")
    assert (list(cast.input), list(cast.output)) == (["w.stored"], ["w"])
    found = GraphConstants(model.graph)
    assert found.kind("w") == TensorProto.FLOAT
    np.testing.assert_array_equal(found["w"], W.astype(np.float16).astype(np.float32))


def test_a_dialect_that_does_not_ask_for_it_gets_the_file_as_it_was() -> None:
    model = product()
    store(model, FULL)
    assert model == product()


def test_small_ones_and_factors_of_channels_stay() -> None:
    wide = np.ones((1, 2 * WORTH_HALVING, 1, 1), np.float32)
    small = np.ones((WORTH_HALVING // 32 - 1, 32), np.float32)
    whole = np.ones((64, 64), np.int32)
    model = stored(product(W, wide=wide, small=small, whole=whole))
    assert [n for n, kind in kinds(model).items() if kind == TensorProto.FLOAT16] == ["w.stored"]


@pytest.mark.parametrize(
    ("what", "weight"),
    [
        ("overflows", np.where(np.arange(64) == 3, np.float32(70_000), W)),
        ("is subnormal", W * np.float32(1e-6)),
        ("vanishes", W * np.float32(1e-12)),
        ("is infinite", np.where(np.arange(64) == 3, np.float32(np.inf), W)),
        ("is no number", np.where(np.arange(64) == 3, np.float32(np.nan), W)),
    ],
)
def test_what_float16_cannot_hold_stays(what: str, weight: Array) -> None:
    assert in_half(weight) is None, what
    model = product(weight)
    store(model, HALF)
    assert kinds(model)["w"] == TensorProto.FLOAT


def test_the_bound_is_half_a_step_and_zeros_are_held() -> None:
    near = in_half(W)
    assert near is not None and near.dtype == np.float16
    assert np.linalg.norm(near - W.astype(np.float64)) <= BOUND * np.linalg.norm(W)
    some = W.copy()
    some[:, 0] = 1e-9  # of a channel that died: next to the others nothing
    assert in_half(some) is not None
    assert in_half(np.zeros((64, 64), np.float32)) is not None


def test_scales_stay_whatever_their_size_and_shape() -> None:
    model = product()
    scale = np.full((64, 64), 0.1, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scale, "s"))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["w", "s"], ["w.q"], axis=0))
    store(model, HALF)
    assert kinds(model)["s"] == TensorProto.FLOAT and "w.stored" in kinds(model)


def test_of_a_large_graph_the_float16_weight_lies_in_a_file_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weight_file, "INLINE_BYTES", 1024)
    monkeypatch.setattr(weight_file, "working_folder", lambda: tmp_path)
    model = product()
    model.graph.initializer[0].CopyFrom(weight_file.constant(W, "w", True))
    store(model, HALF)
    (held,) = (t for t in model.graph.initializer if t.name == "w.stored")
    assert is_apart(held)
    np.testing.assert_array_equal(GraphConstants(model.graph)["w"], W.astype(np.float16))


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_computes_what_float32_weights_of_that_value_give(
    name: str, tmp_path: Path
) -> None:
    """To the last bit: nothing is computed in float16."""
    host, x = runtime(name), RNG.standard_normal((5, 64)).astype(np.float32)
    answers: list[Array] = []
    sizes: list[int] = []
    weights = W.astype(np.float16).astype(np.float32)
    for what, model in (("half", stored(product())), ("full", product(weights))):
        (folder := tmp_path / what).mkdir()
        file = write(model, folder / "g.onnx")
        sizes.append(file.stat().st_size)
        answers.append(host.load(host.build(file, folder)[0], 1)(x=x))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert sizes[1] - sizes[0] == pytest.approx(2 * W.size, abs=200)


def test_openvino_s_own_file_holds_what_float16_holds_in_half_the_bytes(tmp_path: Path) -> None:
    """And what it does not hold exactly as it is."""
    sizes, exact = {}, W.astype(np.float16).astype(np.float32)
    for what, weight, host in (
        ("exact", exact, OpenVino()),
        ("more digits", W, OpenVino()),
        ("not asked", exact, _Plain()),
    ):
        (folder := tmp_path / what).mkdir()
        built = host.build(write(product(weight), folder / "g.onnx"), folder)
        sizes[what] = built[1].stat().st_size
        x = np.eye(64, dtype=np.float32)
        np.testing.assert_allclose(host.load(built[0], 1)(x=x), weight + 1, rtol=0, atol=1e-6)
    assert sizes["more digits"] == sizes["not asked"] == sizes["exact"] + 2 * W.size


class _Plain(OpenVino):
    dialect = replace(OpenVino.dialect, stored="float32")


def test_runtimes_that_compute_in_float16_or_were_not_tried_are_left_alone() -> None:
    stored_by = {
        n: runtime(n).dialect.stored for n in (*RUNTIMES, "tensorrt", "onnxruntime-openvino")
    }
    assert stored_by == {
        "onnxruntime": "float16",
        "openvino": "float16",
        "tensorrt": "float32",
        "onnxruntime-openvino": "float32",
    }


@pytest.mark.export
@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_plan_leaves_in_float_is_half_as_large(name: str) -> None:
    model, dialect = tiny.models()["theta"], runtime(name).dialect
    plan = replace(tiny.plan(), rules=(("*", "fp32"),))
    full = qdq.quantize(model, "theta", plan, replace(dialect, stored="float32"))
    half = qdq.quantize(model, "theta", plan, dialect)
    large = [t for t in full.graph.initializer if f"{t.name}.stored" in kinds(half)]
    assert large and total_bytes(full) - total_bytes(half) == sum(
        2 * int(np.prod(t.dims)) for t in large
    )
    assert [f for f in lint(half, name) if f.level == "error"] == []


def test_lint_sees_the_weight_behind_the_cast() -> None:
    """Quantized data and a float weight is slow however the weight is stored."""
    model = one_conv(weights="float", cin=32)
    seen = [f for f in lint(model, "openvino") if f.rule == "float-weight"]
    store(model, HALF)
    assert any(n.op_type == "Cast" for n in model.graph.node)
    assert [f for f in lint(model, "openvino") if f.rule == "float-weight"] == seen != []


def test_layers_that_a_plan_could_quantize_are_the_same_behind_a_cast() -> None:
    """So that a stored file can be quantized like the one that it was."""
    plan = Plan((("*", "int8"),), {"g": {"x": Range(-4.0, 4.0)}}, linear=("*",))
    model = stored(product())
    found = [n.name for n in qdq.int8_nodes(model, "g", plan, HALF)]
    assert found == ["product"]
    codes = kinds(qdq.quantize(model, "g", plan, HALF))
    assert codes["w.int"] == TensorProto.INT8 and "w.stored" not in codes
