"""Graphs for Turing GPUs: the same numbers without a float32 matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.export.turing import without_products

RNG = np.random.default_rng(0)
NARROW, WIDE = RNG.normal(size=(6, 4)), RNG.normal(size=(4, 6))


def net(
    op: str,
    inputs: dict[str, tuple[int, ...]],
    constants: dict[str, np.ndarray],
    kind: int = TensorProto.FLOAT,
    **settings: Any,
) -> onnx.ModelProto:
    names = [*inputs, *constants] if "first" not in settings else settings.pop("first")
    values = [
        helper.make_tensor_value_info(k, kind, ["batch", *shape[1:]]) for k, shape in inputs.items()
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], "product", **settings)],
        "net",
        values,
        [helper.make_tensor_value_info("y", kind, None)],
        [
            numpy_helper.from_array(v.astype(helper.tensor_dtype_to_np_dtype(kind)), k)
            for k, v in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(model).graph.output[0])
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(None, feeds)[0]
    return found


BIAS = {"c": RNG.normal(size=4)}
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, np.ndarray], dict[str, Any]]] = {
    "a matrix": ("MatMul", {"x": (3, 6)}, {"w": NARROW}, {}),
    "a layer": ("Gemm", {"x": (3, 6)}, {"w": WIDE, **BIAS}, {"transB": 1}),
    "factors": ("Gemm", {"x": (3, 6)}, {"w": NARROW, **BIAS}, {"alpha": 0.5, "beta": 2.0}),
    "no bias": ("Gemm", {"x": (3, 6)}, {"w": NARROW}, {"alpha": 2.0}),
    "attention": ("MatMul", {"q": (3, 2, 5, 4), "k": (3, 2, 4, 7)}, {}, {}),
    "tokens": ("MatMul", {"x": (3, 5, 6)}, {"w": NARROW}, {}),
    "a constant first": ("MatMul", {"x": (3, 6, 5)}, {"w": WIDE}, {"first": ["w", "x"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sums_are_the_same(name: str) -> None:
    op, inputs, constants, settings = CASES[name]
    model = net(op, inputs, constants, **dict(settings))
    feeds = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in inputs.items()}
    made = without_products(model)
    np.testing.assert_allclose(run(made, feeds), run(model, feeds), rtol=1e-5, atol=1e-5)
    assert not {n.op_type for n in made.graph.node} & {"MatMul", "Gemm"}
    assert model.graph.node[0].op_type == op  # the given model stays as it is


def test_a_turned_input() -> None:
    model = net("Gemm", {"x": (6, 3)}, {"w": WIDE}, transA=1, transB=1)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 6
    feeds = {"x": RNG.normal(size=(6, 3)).astype(np.float32)}
    np.testing.assert_allclose(
        run(without_products(model), feeds), run(model, feeds), rtol=1e-5, atol=1e-5
    )


def test_products_in_float16_stay() -> None:
    model = net("MatMul", {"x": (3, 6)}, {"w": NARROW}, kind=TensorProto.FLOAT16)
    assert [n.op_type for n in without_products(model).graph.node] == ["MatMul"]
