"""Float16 where it is harmless, float32 where it is not: as the file says, as it computes, and as
TensorRT builds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from graphs import GRAPHS, Graphs, inputs, int8_plan
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.core.spec import Array
from edgegen.evidence import parity
from edgegen.export import RUNTIMES, engine, qdq, runtime
from edgegen.export.half import full_precision, half
from edgegen.export.turing import without_products

ENGINES = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed: no graph was built"
)
HALF = runtime("tensorrt").dialect


def computed(model: onnx.ModelProto, given: dict[str, Array]) -> Array:
    with np.errstate(all="ignore"):
        out: list[Array] = ReferenceEvaluator(model).run(None, given)  # type: ignore[assignment]
    return out[0]


def decibel(exact: Array, other: Array) -> float:
    error = np.square(exact.astype(np.float64) - other).mean()
    return (
        float(10 * np.log10(np.square(exact.astype(np.float64)).mean() / error)) if error else 200.0
    )


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    return found | {t.name: t.data_type for t in graph.initializer}


def graph_of(nodes: Sequence[onnx.NodeProto], **constants: object) -> onnx.ModelProto:
    """x (2, 4) -> y (2, 4)"""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "graph"), GRAPHS)
def test_every_graph_in_float16_computes_what_it_did(
    family: str, graph: str, every_graph: Graphs
) -> None:
    model = every_graph[family, graph]
    made = half(model, {})
    assert [(v.name, v.type) for v in made.graph.input] == [
        (v.name, v.type) for v in model.graph.input
    ]
    assert [(v.name, v.type) for v in made.graph.output] == [
        (v.name, v.type) for v in model.graph.output
    ]
    given = inputs(model)
    assert decibel(computed(model, given), computed(made, given)) > 40
    assert 0.4 < len(made.SerializeToString()) / len(model.SerializeToString()) < 1.1
    found = types(made)
    for node in made.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert {found[t] for t in (*node.input, *node.output)} == {TensorProto.FLOAT16}
        if node.op_type in (
            "Softmax",
            "Sqrt",
            "Pow",
            "Reciprocal",
            "ReduceMean",
            "Sin",
            "LayerNormalization",
        ):
            assert found[node.output[0]] == TensorProto.FLOAT


def test_attention_and_demodulation_stay_in_float32(
    every_graph: Graphs,
) -> None:
    kept = {key: set(full_precision(model, {})) for key, model in every_graph.items()}
    attention, synthesis = every_graph["lcd", "denoiser"], every_graph["isc-gan", "synthesis"]
    weights = {t.name for t in attention.graph.initializer}
    products = {
        n.name for n in attention.graph.node if n.op_type == "MatMul" and not weights & set(n.input)
    }
    assert products and products <= kept["lcd", "denoiser"]
    sums = {n.name for n in synthesis.graph.node if n.op_type == "MatMul"}
    squares = {
        n.name for n in synthesis.graph.node if n.op_type == "Mul" and n.input[0] == n.input[1]
    }
    assert sums and squares and sums | squares <= kept["isc-gan", "synthesis"]
    assert all(len(names) < 0.5 * len(every_graph[key].graph.node) for key, names in kept.items())


def test_what_calibration_saw_beyond_float16_stays_in_float32() -> None:
    """And nothing else can save it: without the range it overflows."""
    model = graph_of(
        [
            helper.make_node("Mul", ["x", "large"], ["h"], "up"),
            helper.make_node("Add", ["h", "one"], ["s"], "add"),
            helper.make_node("Mul", ["s", "small"], ["t"], "down"),
            helper.make_node("Relu", ["t"], ["y"], "relu"),
        ],
        large=1000.0,
        one=1.0,
        small=0.001,
    )
    x = {"x": np.full((2, 4), 300, np.float32)}
    assert np.isinf(computed(half(model, {}), x)).all()
    ranges = {"h": Range(-3e5, 3e5), "s": Range(-3e5, 3e5), "t": Range(-300.0, 300.0)}
    np.testing.assert_allclose(computed(half(model, ranges), x), computed(model, x), rtol=1e-3)
    assert list(full_precision(model, ranges)) == ["up", "add", "down"]


def test_squares_stay_in_float32_whoever_reads_them() -> None:
    """256 squared is beyond float16; Relu alone is harmless."""
    model = graph_of(
        [
            helper.make_node("Mul", ["x", "x"], ["s"], "square"),
            helper.make_node("Relu", ["s"], ["y"], "relu"),
        ]
    )
    assert list(full_precision(model, {})) == ["square"]


def test_constants_that_float16_cannot_hold_stay() -> None:
    for value in (1e-9, 1e6):
        nodes = [
            helper.make_node("Mul", ["x", "c"], ["h"], "mul"),
            helper.make_node("Relu", ["h"], ["y"], "relu"),
        ]
        model = graph_of(nodes, c=value)
        assert list(full_precision(model, {})) == ["mul"]
        x = {"x": np.full((2, 4), 1 / value, np.float32)}
        np.testing.assert_allclose(computed(half(model, {}), x), 1, rtol=1e-3)


def test_a_tensor_that_both_read_is_cast_once() -> None:
    model = graph_of(
        [
            helper.make_node("Relu", ["x"], ["h"], "relu"),
            helper.make_node("Exp", ["h"], ["a"], "one"),
            helper.make_node("Sin", ["h"], ["b"], "two"),
            helper.make_node("Add", ["a", "b"], ["y"], "sum"),
        ]
    )
    made = half(model, {})
    casts = [(n.input[0], n.output[0]) for n in made.graph.node if n.op_type == "Cast"]
    assert sorted(casts) == [
        ("a", "a.half"),
        ("b", "b.half"),
        ("h", "h.full"),
        ("x", "x.half"),
        ("y.half", "y"),
    ]
    x = {"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}
    np.testing.assert_allclose(computed(made, x), computed(model, x), atol=5e-3)


@pytest.mark.parametrize("name", RUNTIMES)
def test_only_tensorrt_is_written_in_float16(name: str, every_graph: Graphs) -> None:
    model = every_graph["cas-dm", "theta"]
    made = qdq.quantize(model, "theta", int8_plan(model, "theta"), runtime(name).dialect)
    assert (TensorProto.FLOAT16 in types(made).values()) == (
        runtime(name).dialect is HALF or name.startswith("tensorrt")
    )


@pytest.mark.parametrize("exponent", [-30, -12, -3, 0, 9])
def test_scales_are_what_float16_can_hold_and_cut_nothing_off(exponent: int) -> None:
    top = 1.1 * 2.0**exponent
    scale = qdq.Scale.of(Range(-top, top), HALF).scale
    assert np.float32(np.float16(scale)) == scale and scale * 127 >= np.float32(top)
    assert scale <= top / 127 * 1.002 + 2.0**-24
    plain = qdq.Scale.of(Range(-top, top), Dialect()).scale
    assert plain == np.float32(top / 127)


def test_a_range_that_float16_cannot_hold_keeps_its_scale() -> None:
    for top in (2e4, 1e6, 3e38):
        assert qdq.Scale.of(Range(-top, top), HALF).scale == np.float32(top / 127)


def test_int8_convolutions_read_and_write_float16(
    every_graph: Graphs,
) -> None:
    """DequantizeLinear gives what its scale is: both inputs of an INT8 convolution must be of one
    type.
    """
    for (_, graph), model in every_graph.items():
        made = qdq.quantize(model, graph, int8_plan(model, graph), HALF)
        found = types(made)
        makers = {t: n for n in made.graph.node for t in n.output}
        convolutions = [n for n in made.graph.node if n.op_type == "Conv"]
        assert all(makers[n.input[1]].op_type == "DequantizeLinear" for n in convolutions)
        assert all(
            {found[t] for t in (*n.input, *n.output)} == {TensorProto.FLOAT16} for n in convolutions
        )


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize(("family", "graph"), GRAPHS)
def test_every_graph_of_every_family_builds_in_every_precision(
    family: str, graph: str, every_graph: Graphs
) -> None:
    """FP32, FP16 and INT8; tests/test_every_export.py builds INT8 for every GPU."""
    model = every_graph[family, graph]
    plan = int8_plan(model, graph)
    for made in (
        model,
        qdq.quantize(model, graph, Plan((), plan.ranges), HALF),
        qdq.quantize(model, graph, plan, HALF),
    ):
        built = engine.engines("tensorrt_rtx", made.SerializeToString(), ("SM86",))
        assert isinstance(built, list) and len(built[0]) > 10_000, built
    turing = without_products(made)
    assert full_products(made) >= full_products(turing) == 0
    assert isinstance(engine.engines("tensorrt_rtx", turing.SerializeToString(), ("SM75",)), list)


def full_products(model: onnx.ModelProto) -> int:
    """Matrix products in float32, which TensorRT-RTX has not for Turing GPUs."""
    found = types(model)
    return sum(
        n.op_type in ("MatMul", "Gemm") and found[n.output[0]] == TensorProto.FLOAT
        for n in model.graph.node
    )


def test_a_cpu_that_rounds_a_float16_file_less_often_agrees_with_it() -> None:
    """ONNX Runtime's CPU kernels compute such files in float32; in a float32 file the same distance
    would be a defect.
    """
    assert parity.Refereed(60.0, 61.0, half=True).agrees and not parity.Refereed(60.0, 61.0).agrees
    assert parity.Refereed(33.0, 35.0, half=True).agrees, (
        "float16 in front of a quantizer flips some codes"
    )
    assert not any(parity.Refereed(db, 35.0, half=True).agrees for db in (28.0, float("nan")))
    assert not parity.Refereed(40.0, 61.0, half=True).agrees
