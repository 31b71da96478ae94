"""Text encoders with weights of 8 bits: codes, axes, graphs that compute what their codes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.core import weight_file
from edgegen.core.weights import GraphConstants
from edgegen.export import weight_only
from edgegen.export.weight_only import LARGEST, Coded, with_coded_weights

WORDS, WIDTH, OUT = 200, 32, 160
RNG = np.random.default_rng(3)
TABLE = RNG.standard_normal((WORDS, WIDTH)).astype(np.float32)
FIRST = RNG.standard_normal((WIDTH, OUT)).astype(np.float32)
LAST = RNG.standard_normal((WIDTH, OUT)).astype(np.float32)  # of a Gemm with transB
TOKENS = np.array([[3, 5, 199, 0]])


def encoder(**changed: np.ndarray) -> onnx.ModelProto:
    """A table, a product and a Gemm, as text encoders have them."""
    weights = {"table": TABLE, "first": FIRST, "last": LAST} | changed
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["words"], "words"),
        helper.make_node("MatMul", ["words", "first"], ["wide"], "wide"),
        helper.make_node("Reshape", ["wide", "rows"], ["listed"], "listed"),
        helper.make_node("Gemm", ["listed", "last"], ["context"], "context", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "context",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", 4])],
        [helper.make_tensor_value_info("context", TensorProto.FLOAT, [None, WIDTH])],
        [
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
            numpy_helper.from_array(np.array([-1, OUT], np.int64), "rows"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"tokens": TOKENS})
    found: np.ndarray = out
    return found


def coded(model: onnx.ModelProto) -> onnx.ModelProto:
    found = with_coded_weights(model)
    assert found is not None
    return found


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_is_within_half_a_step_of_its_codes(axis: int) -> None:
    weight = FIRST * np.linspace(1e-3, 10, FIRST.shape[axis], dtype=np.float32).reshape(
        (-1, 1) if axis == 0 else (1, -1)
    )
    found = Coded.of(weight, axis)
    step = found.scale.reshape((-1, 1) if axis == 0 else (1, -1))
    assert found.codes.dtype == np.int8 and found.scale.shape == (weight.shape[axis],)
    assert (np.abs(found.codes * step - weight) <= step / 2 * 1.0001).all()
    assert (np.abs(found.codes.astype(int)).max(axis=1 - axis) == LARGEST).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = FIRST.copy()
    weight[:, 7] = 0
    found = Coded.of(weight, 1)
    assert (
        not found.codes[:, 7].any() and np.isfinite(found.scale).all() and (found.scale > 0).all()
    )


def test_the_graph_computes_what_its_codes_say() -> None:
    model = encoder()
    found, constants = coded(model), GraphConstants(model.graph)
    near = {}
    for name, axis in (("table", 0), ("first", 1), ("last", 0)):
        one = Coded.of(constants[name], axis)
        near[name] = one.codes * np.expand_dims(one.scale, 1 - axis)
    np.testing.assert_allclose(run(found), run(encoder(**near)), rtol=1e-4, atol=1e-3)
    error = run(found) - run(model)
    assert 0 < np.sqrt(np.square(error).mean() / np.square(run(model)).mean()) < 0.03
    assert len(found.SerializeToString()) < 0.35 * len(model.SerializeToString())
    assert found.graph.input == model.graph.input and found.graph.output == model.graph.output


def test_a_weight_in_half_precision_loses_its_cast() -> None:
    model = encoder()
    (tensor,) = (t for t in model.graph.initializer if t.name == "first")
    tensor.CopyFrom(numpy_helper.from_array(FIRST.astype(np.float16), "first.stored"))
    cast = helper.make_node("Cast", ["first.stored"], ["first"], "cast", to=TensorProto.FLOAT)
    nodes = [cast, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found = coded(model)
    assert all(node.op_type != "Cast" for node in found.graph.node)
    assert all(tensor.data_type != TensorProto.FLOAT16 for tensor in found.graph.initializer)
    np.testing.assert_allclose(run(found), run(coded(encoder())), rtol=0.02, atol=0.5)


def test_what_two_readers_want_along_different_axes_stays() -> None:
    square = RNG.standard_normal((OUT, OUT)).astype(np.float32)
    model = encoder()
    model.graph.initializer.append(numpy_helper.from_array(square, "square"))
    more = [
        helper.make_node("MatMul", ["listed", "square"], ["a"], "a"),
        helper.make_node("Gemm", ["a", "square"], ["b"], "b", transB=1),
    ]
    (last,) = (node for node in model.graph.node if node.op_type == "Gemm")
    last.input[0] = "b"
    nodes = [*list(model.graph.node)[:-1], *more, last]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found = coded(model)
    kinds = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert kinds["square"] == TensorProto.FLOAT and kinds["first.codes"] == TensorProto.INT8
    assert run(found).shape == run(model).shape


def test_small_weights_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_only, "WORTH_CODING", WORDS * WIDTH + 1)
    assert with_coded_weights(encoder()) is None


def test_large_weights_stay_in_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weight_file, "APART_BYTES", 1000)
    monkeypatch.setattr(weight_file, "INLINE_BYTES", 1000)
    path = tmp_path / "plain" / "text.onnx"
    path.parent.mkdir()
    weight_file.write_model(encoder(), path)
    model = weight_file.located(onnx.load(path, load_external_data=False), path.parent)
    other = tmp_path / "coded" / "text.onnx"
    other.parent.mkdir()
    weight_file.write_model(coded(model), other)
    assert [p.name for p in sorted(other.parent.iterdir())] == ["text.onnx", "text.weights"]
    session = ort.InferenceSession(str(other), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"tokens": TOKENS})[0], run(coded(encoder())))
