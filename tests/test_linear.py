"""Products by a constant matrix, Gemm and MatMul, in INT8: which of them a plan speaks of, and what
each runtime makes of them.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.calibrate.choose import LEAST, fastest, multiplications
from edgegen.calibrate.observe import Observer, session
from edgegen.calibrate.rounding import WeightMoments, rounded
from edgegen.core.files import to_json
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.core.samplers import UNTIMED
from edgegen.core.weights import GraphConstants
from edgegen.errors import InputError
from edgegen.export import engine, qdq, runtime
from edgegen.export import onnx as onnx_files
from edgegen.export.lint import lint
from edgegen.workflows.export.plans import check_plan

ROWS = 4
VALUE = helper.make_tensor_value_info


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], x: list[int], y: list[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [VALUE("x", TensorProto.FLOAT, ["batch", *x])],
        [VALUE("y", TensorProto.FLOAT, ["batch", *y])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def products(operator: str, *sizes: int) -> onnx.ModelProto:
    """Products one behind the other with biases and ReLUs, p0 to pN: Gemm of vectors, or MatMul of
    ROWS rows an image.
    """
    rng = np.random.default_rng(0)
    nodes, constants, x = [], {}, "x"
    for k, (before, behind) in enumerate(itertools.pairwise(sizes)):
        weight = (rng.standard_normal((before, behind)) / np.sqrt(before)).astype(np.float32)
        weight *= np.geomspace(0.1, 1, behind, dtype=np.float32)
        constants[f"b{k}"] = rng.standard_normal(behind).astype(np.float32) / 8
        if operator == "Gemm":
            constants[f"w{k}"] = np.ascontiguousarray(weight.T)
            nodes.append(
                helper.make_node("Gemm", [x, f"w{k}", f"b{k}"], [f"s{k}"], f"p{k}", transB=1)
            )
        else:
            constants[f"w{k}"] = weight
            nodes.append(helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"], f"p{k}"))
            nodes.append(helper.make_node("Add", [f"m{k}", f"b{k}"], [f"s{k}"], f"add{k}"))
        x = "y" if k == len(sizes) - 2 else f"r{k}"
        nodes.append(helper.make_node("Relu", [f"s{k}"], [x], f"relu{k}"))
    rows = [] if operator == "Gemm" else [ROWS]
    return model_of(nodes, constants, [*rows, sizes[0]], [*rows, sizes[-1]])


def convolved(size: int) -> onnx.ModelProto:
    """Three convolutions, the middle one shifted by a product of that size with their means."""
    rng = np.random.default_rng(0)
    names = {"c0": (size, 4, 1, 1), "c1": (size, size, 3, 3), "c2": (4, size, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "c0"], ["a"], "first"),
        helper.make_node("ReduceMean", ["a", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "w"], ["style"], "style"),
        helper.make_node("Unsqueeze", ["style", "axes"], ["wide"]),
        helper.make_node("Conv", ["a", "c1"], ["b"], "middle", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "wide"], ["c"]),
        helper.make_node("Conv", ["c", "c2"], ["y"], "last"),
    ]
    shapes = {**names, "w": (size, size)}
    constants = {n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}
    return model_of(nodes, {**constants, "axes": np.array([2, 3])}, [4, 6, 6], [4, 6, 6])


def calibrated(model: onnx.ModelProto, x: np.ndarray) -> Plan:
    """All in int8, with the ranges of these inputs."""
    observer = Observer(model, qdq.candidates(model), UNTIMED, 1)
    observer(x=x)
    return Plan((("*", "int8"),), {"g": observer.stats.ranges()}, linear=("*",))


def inputs(model: onnx.ModelProto, images: int = 8) -> np.ndarray:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(1).standard_normal((images, *shape)).astype(np.float32)


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    """In whichever precision."""
    constants = GraphConstants(model.graph)
    return constants[name if name in constants else f"{name}.half"]


def decibel(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).mean() / np.square(found - wanted).mean()))


def test_multiplications_count_rows() -> None:
    assert multiplications(products("Gemm", 8, 16)) == {"p0": 8 * 16}
    assert multiplications(products("MatMul", 8, 16)) == {"p0": 8 * 16 * ROWS}


@pytest.mark.parametrize(("size", "speaks"), [(16, ()), (256, ("g/style",))])
def test_beside_convolutions_only_large_products_are_spoken_of(
    size: int, speaks: tuple[str, ...]
) -> None:
    assert LEAST <= 256 * 256
    assert fastest({"g": convolved(size)}).linear == speaks


def test_where_there_are_no_convolutions_small_products_are_spoken_of_too() -> None:
    """The first reads the noise and the last writes the pixels, as those of convolutions."""
    plan = fastest({"g": products("Gemm", 8, 8, 8, 8)})
    assert plan.linear == ("g/p0", "g/p1", "g/p2")
    assert [node for node, _ in plan.rules] == ["g/p0", "g/p2", "*"]
    for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"):
        qdq.check_any({"g": products("Gemm", 8, 8, 8, 8)}, plan, name, runtime(name).dialect)


def test_ends_are_int8_where_nothing_else_is_left() -> None:
    assert fastest({"g": products("MatMul", 8, 8, 8)}).rules == (("*", "int8"),)
    ends = fastest({"g": products("MatMul", 8, 8, 8), "h": products("MatMul", 8, 8, 8, 8)})
    assert [node for node, _ in ends.rules] == ["g/p0", "g/p1", "h/p0", "h/p2", "*"]


def test_one_graph_that_can_be_int8_is_enough() -> None:
    half = {"still": model_of([helper.make_node("Relu", ["x"], ["y"], "r")], {}, [4], [4])}
    dialect = runtime("onnxruntime").dialect
    with pytest.raises(InputError, match="no layer with weights"):
        qdq.check_any(half, fastest(half), "onnxruntime", dialect)
    both = {**half, "g": products("Gemm", 8, 8)}
    qdq.check_any(both, fastest(both), "onnxruntime", dialect)


@pytest.mark.parametrize("field", ["alpha", "beta", "transA"])
def test_a_product_that_is_scaled_or_turned_stays_as_it_is(field: str) -> None:
    model = products("Gemm", 8, 8)
    model.graph.node[0].attribute.append(
        helper.make_attribute(field, 1 if field == "transA" else 0.5)
    )
    assert multiplications(model) == {}


def test_a_plan_of_before_means_what_it_meant() -> None:
    """Its "*" spoke of convolutions alone, and its ranges are of all tensors."""
    model = convolved(16)
    ranges = {n: Range(-4.0, 4.0) for n in qdq.candidates(model)}
    before = Plan((("*", "int8"),), {"g": ranges})
    document = before.to_bytes()
    assert b"linear" not in document
    again = Plan.parsed(document, Path("plan.json"))
    assert again == before
    made = qdq.quantize(model, "g", again, runtime("openvino").dialect)
    assert "c1.int" in GraphConstants(made.graph)
    assert "w.int" not in GraphConstants(made.graph)
    more = replace(before, linear=("g/st*",))
    assert Plan.parsed(more.to_bytes(), Path("plan.json")) == more
    made = qdq.quantize(model, "g", more, runtime("openvino").dialect)
    assert "w.int" in GraphConstants(made.graph)


@pytest.mark.parametrize("linear", ["*", [1], {"g": 1}])
def test_a_plan_names_products_in_a_list(linear: object) -> None:
    document = to_json({"schema_version": 1, "rules": [], "ranges": {}, "linear": linear})
    with pytest.raises(InputError, match="linear is a list of names"):
        Plan.parsed(document, Path("plan.json"))


def test_a_product_of_another_generator_is_refused() -> None:
    model = convolved(16)
    check_plan(Plan((("*", "int8"),), {}, linear=("g/style",)), {"g": model}, Path("plan.json"))
    with pytest.raises(InputError, match="g/first is not in these graphs"):
        check_plan(Plan((), {}, linear=("g/first",)), {"g": model}, Path("plan.json"))


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tensorrt"])
def test_a_runtime_s_file_computes_what_full_precision_does(
    name: str, operator: str, tmp_path: Path
) -> None:
    """Each output channel has a scale of its own; nothing of it is what lint warns of."""
    model, target = products(operator, 64, 96, 64), runtime(name)
    x = inputs(model)
    made = qdq.quantize(model, "g", calibrated(model, x), target.dialect)
    assert constant(made, "w0.int").dtype == np.int8
    assert constant(made, "w0.scale").shape == (96,)
    assert not lint(made, name)
    host = target if target.cannot_run() is None else runtime("reference")
    found = host.load(onnx_files.write(made, tmp_path / "g.onnx"), 1)(x=x)
    assert decibel(session(model, 1).run(None, {"x": x})[0], found) > 25


def test_products_write_float_where_convolutions_write_int8() -> None:
    """ONNX Runtime's kernels of products write float as fast, and exactly."""
    model = products("MatMul", 64, 64)
    plan = calibrated(model, inputs(model))
    assert qdq.quantized_tensors(model, "g", plan, runtime("onnxruntime").dialect) == {"x"}


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_tensorrt_builds_products_in_int8(operator: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = products(operator, 64, 96, 64)
    plan = calibrated(model, inputs(model))
    made = qdq.quantize(model, "g", plan, runtime("tensorrt-rtx").dialect)
    built = engine.engines("tensorrt_rtx", made.SerializeToString(), ("SM86",))
    assert isinstance(built, list), built


@pytest.mark.parametrize("half", [False, True])
def test_a_weight_stored_the_other_way_round_is_one_all_the_same(half: bool) -> None:
    """As graphs hold them that were traced without their weights."""
    straight = products("MatMul", 32, 32)
    x, plan = inputs(straight), calibrated(straight, inputs(straight))
    turned = onnx.ModelProto()
    turned.CopyFrom(straight)
    graph = turned.graph
    (weight,) = (t for t in graph.initializer if t.name == "w0")
    values = numpy_helper.to_array(weight).T
    kind = np.float16 if half else np.float32
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, kind), "stored"))
    before = [helper.make_node("Cast", ["stored"], ["full"], "cast", to=1)] if half else []
    before.append(
        helper.make_node("Transpose", ["full" if half else "stored"], ["w0"], "turn", perm=[1, 0])
    )
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for target in ("openvino", "tensorrt"):  # the second one halves what stays in float
        dialect = runtime(target).dialect
        made = qdq.quantize(turned, "g", plan, dialect)
        assert not {"Transpose", "stored"} & {n.op_type for n in made.graph.node}
        assert "stored" not in GraphConstants(made.graph)
        wanted = qdq.quantize(straight, "g", plan, dialect)
        for name in ("w0.int", "w0.scale"):
            ours, theirs = (constant(m, name) for m in (made, wanted))
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1)
    full = qdq.quantize(turned, "g", replace(plan, linear=()), Dialect(floats="float16"))
    assert "Transpose" not in {n.op_type for n in full.graph.node}
    wanted = session(straight, 1).run(None, {"x": x})[0]
    assert decibel(wanted, session(full, 1).run(None, {"x": x})[0]) > 50


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_rounding_by_second_moments_costs_less(operator: str) -> None:
    model = products(operator, 48, 32)
    rng = np.random.default_rng(2)
    x = inputs(model, 256)
    x = x @ (rng.standard_normal((48, 6)) @ rng.standard_normal((6, 48))).astype(np.float32)
    moments = WeightMoments(model, 1, ["p0"])
    moments(x=x)
    plan = calibrated(model, x)
    dialect = Dialect(weight_bits=7)
    wanted = session(model, 1).run(None, {"x": x})[0]
    nearest, mended = (
        decibel(wanted, session(qdq.quantize(m, "g", plan, dialect), 1).run(None, {"x": x})[0])
        for m in (model, rounded(model, moments, (7,)))
    )
    assert mended > nearest
    assert not WeightMoments(model, 1).second  # who was not asked for is not measured
