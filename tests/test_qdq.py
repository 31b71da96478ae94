"""Q/DQ in every runtime's dialect: legal, executed alike by two implementations, near full
precision, and built as it says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.errors import GateFailed, InputError
from edgegen.evidence import parity
from edgegen.export import RUNTIMES, qdq, runtime
from edgegen.export.onnx import write

Execute = Callable[..., Any]
OV, ORT, RTX = (runtime(n).dialect for n in ("openvino", "onnxruntime", "tensorrt-rtx"))
TRT = replace(RTX, floats="float32")  # exact where float16 is not; tests/test_half.py has that


def execute(model: ModelProto, folder: Path, by: str = "onnxruntime") -> Execute:
    folder.mkdir(exist_ok=True)
    host = runtime(by)
    return host.load(host.build(write(model, folder / "g.onnx"), folder)[0], 1)


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def nodes(model: ModelProto, kind: str) -> dict[str, NodeProto]:
    return {n.name: n for n in model.graph.node if n.op_type == kind}


def makers(model: ModelProto) -> dict[str, NodeProto]:
    return {t: n for n in model.graph.node for t in n.output}


def decibel(signal: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.square(signal).mean() / np.square(signal - other).mean()))


@pytest.mark.export
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("graph", ["theta", "phi"])
def test_a_dialect_is_legal_and_two_implementations_agree_near_full_precision(
    name: str, graph: str, tmp_path: Path
) -> None:
    """The reference evaluator and ONNX Runtime share no kernel; full is the FP32 graph."""
    model = qdq.quantize(tiny.models()[graph], graph, tiny.plan(), runtime(name).dialect)
    # float16 in front of a quantizer flips more
    margin = -3 if runtime(name).dialect.floats == "float16" else 6
    onnx.checker.check_model(model, full_check=True)
    ran, judge = execute(model, tmp_path), execute(model, tmp_path / "r", "reference")
    full = execute(tiny.models()[graph], tmp_path / "f")
    for inputs in tiny.calls()[graph][::3]:
        wanted, theirs = full(**inputs), judge(**inputs)
        assert decibel(wanted, theirs) > 20
        assert decibel(theirs, ran(**inputs)) > decibel(wanted, theirs) + margin, (
            "a tie in rounding may flip, no more"
        )
    again = qdq.quantize(tiny.models()[graph], graph, tiny.plan(), runtime(name).dialect)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("dialect", [OV, ORT, TRT, Dialect()])
def test_values_on_the_integer_lattice_survive_exactly(dialect: Dialect, tmp_path: Path) -> None:
    """Inputs, weights and bias that 8 bits can write: INT8 is then not an approximation."""
    rng = np.random.default_rng(1)
    model = tiny.conv_net((3, 16))
    largest = dialect.largest_weight
    steps = rng.integers(-largest, largest + 1, (16, 3, 3, 3))
    steps[:, 0, 0, 0] = largest
    scale = 2.0 ** rng.integers(-9, -5, (16, 1, 1, 1))
    exact = {
        "c0.weight": steps * scale,
        "c0.bias": rng.integers(-500, 500, 16) * scale.ravel() / 32,
    }
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(exact[tensor.name].astype(np.float32), tensor.name))
    seen = Range(-127 / 32, 127 / 32) if dialect.symmetric else Range(0, 255 / 32)
    plan = Plan((("*", "int8"),), {"g": {t: seen for t in qdq.candidates(model)}})
    x = (rng.integers(-127 if dialect.symmetric else 0, 128, (2, 3, 8, 8)) / 32).astype(np.float32)
    ran = execute(qdq.quantize(model, "g", plan, dialect), tmp_path, "reference")
    np.testing.assert_allclose(ran(x=x), execute(model, tmp_path / "f")(x=x), rtol=0, atol=1e-5)


@pytest.mark.export
def test_tensorrt_wants_zero_points_of_zero_float_bias_and_no_q_behind_a_convolution() -> None:
    model = qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), TRT)
    held, made = constants(model), makers(model)
    for node in [
        *nodes(model, "QuantizeLinear").values(),
        *nodes(model, "DequantizeLinear").values(),
    ]:
        zero = held[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any(), node.name
    for node in nodes(model, "QuantizeLinear").values():
        assert made.get(node.input[0]) is None or made[node.input[0]].op_type != "Conv", node.name
    int8 = [n for n in nodes(model, "Conv").values() if n.input[1].endswith(".dq")]
    assert len(int8) > 5
    for node in int8:
        assert (
            made[node.input[0]].op_type == "DequantizeLinear"
            and held[node.input[2]].dtype == np.float32
        )


@pytest.mark.export
def test_openvino_has_unsigned_activations_and_int8_weights() -> None:
    model = qdq.quantize(tiny.models()["phi"], "phi", tiny.plan(), OV)
    held = constants(model)
    assert {held[n.input[2]].dtype for n in nodes(model, "QuantizeLinear").values()} == {
        np.dtype(np.uint8)
    }
    weights = [
        held[n.input[0]] for n in nodes(model, "DequantizeLinear").values() if n.input[0] in held
    ]
    assert weights and all(w.dtype == np.int8 and w.min() >= -127 for w in weights)


@pytest.mark.export
def test_onnx_runtime_has_an_int32_bias_with_the_product_of_both_scales() -> None:
    model = qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), ORT)
    held, made = constants(model), makers(model)
    seen = 0
    for node in nodes(model, "Conv").values():
        if not node.input[1].endswith(".dq"):
            continue
        data, weight, bias = (made[t] for t in node.input)
        assert held[bias.input[0]].dtype == np.int32
        np.testing.assert_array_equal(
            held[bias.input[1]], held[data.input[1]] * held[weight.input[1]]
        )
        seen += 1
    assert seen > 5


@pytest.mark.export
def test_onnx_runtime_computes_nothing_in_float_between_two_int8_convolutions() -> None:
    model = qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), ORT)
    made, readers = makers(model), defaultdict(list)
    for node in model.graph.node:
        for tensor in node.input:
            readers[tensor].append(node)
    int8 = {n.name for n in nodes(model, "Conv").values() if n.input[1].endswith(".dq")}
    joins = [
        n
        for n in model.graph.node
        if n.op_type in ("Add", "Concat", "Resize") and _between(n, made, readers, int8)
    ]
    assert {n.op_type for n in joins} == {"Add", "Concat", "Resize"}
    for node in joins:
        data = node.input[:1] if node.op_type == "Resize" else node.input
        assert all(made[t].op_type == "DequantizeLinear" for t in data), node.name
        behind = {r.op_type for r in readers[node.output[0]]}
        assert behind <= {"QuantizeLinear", "Relu"}, (node.name, behind)


def _between(
    node: NodeProto, made: dict[str, NodeProto], readers: dict[str, list[NodeProto]], int8: set[str]
) -> bool:
    def reaches(
        tensors: list[str], step: Callable[[str], list[NodeProto]], ports: str, seen: set[str]
    ) -> bool:
        for tensor in tensors:
            for other in step(tensor):
                if other.name in int8:
                    return True
                if other.op_type != "Conv" and other.name not in seen:
                    seen.add(other.name)
                    if reaches(list(getattr(other, ports)), step, ports, seen):
                        return True
        return False

    back = reaches(list(node.input), lambda t: [made[t]] if t in made else [], "input", set())
    return back and reaches(list(node.output), lambda t: readers[t], "output", set())


@pytest.mark.export
@pytest.mark.parametrize("name", RUNTIMES)
def test_what_the_plan_keeps_has_no_quantized_weights(name: str) -> None:
    model = qdq.quantize(tiny.models()["theta"], "theta", tiny.plan(), runtime(name).dialect)
    for kept in ("trunk.stem.conv", "trunk.head"):
        node = nodes(model, "Conv")[kept]
        assert [t.removesuffix(".half") for t in node.input[1:]] == [
            f"{kept}.weight",
            f"{kept}.bias",
        ]
    untouched = qdq.quantize(tiny.models()["theta"], "theta", Plan((), {}), runtime(name).dialect)
    ops = [n.op_type for n in untouched.graph.node if n.op_type != "Cast"]
    assert ops == [n.op_type for n in tiny.models()["theta"].graph.node]


def test_a_missing_range_is_named() -> None:
    with pytest.raises(
        InputError, match=r"E-PLAN\] g/x is int8 but the plan has no range for it - calibrate again"
    ):
        qdq.quantize(tiny.conv_net((3, 16)), "g", Plan((("*", "int8"),), {}), TRT)


def shared() -> ModelProto:
    """Two convolutions, one weight and one bias; what the second reads has another range than what
    the first reads.
    """
    model = tiny.conv_net((4, 4), (4, 4))
    model.graph.node[2].input[1:] = ["c0.weight", "c0.bias"]
    kept = [t for t in model.graph.initializer if t.name.startswith("c0")]
    return tiny.graph_of(list(model.graph.node), kept, 4, 4)


@pytest.mark.parametrize("dialect", [OV, ORT, TRT])
def test_a_weight_of_two_convolutions_is_quantized_once(dialect: Dialect, tmp_path: Path) -> None:
    model, plan = shared(), tiny.everything_int8(shared())
    ranges = {**plan.ranges["g"], "r0": Range(0, 9)}
    int8 = qdq.quantize(model, "g", Plan(plan.rules, {"g": ranges}), dialect)
    assert [n for n in constants(int8) if n.startswith("c0.weight") and n.endswith(".int")] == [
        "c0.weight.int"
    ]
    x = np.random.default_rng(0).uniform(-2, 2, (2, 4, 8, 8)).astype(np.float32)
    full = execute(model, tmp_path / "f")(x=x)
    for host in ("onnxruntime", "reference"):
        assert decibel(full, execute(int8, tmp_path / host, host)(x=x)) > 25


def test_nodes_without_names_are_told_apart() -> None:
    model = tiny.conv_net((3, 16), (16, 16))
    for node in model.graph.node:
        node.name = ""
    model.graph.node[2].input[1] = "x"  # a computed weight: not constant, so not quantized
    model.graph.node[2].op_type = "Mul"
    del model.graph.node[2].input[2:], model.graph.node[2].attribute[:]
    int8 = qdq._QdqWriter(model, "g", tiny.everything_int8(tiny.conv_net((3, 16), (16, 16))), TRT)
    assert int8.int8 == {"h0"}


@pytest.mark.parametrize("dialect", [OV, ORT, TRT])
def test_a_dead_channel_gets_scale_one_and_keeps_its_bias(dialect: Dialect, tmp_path: Path) -> None:
    model = tiny.conv_net((3, 4))
    held = constants(model)
    weight, bias = held["c0.weight"].copy(), np.array([0, 0.123456, 0.5, -0.5], np.float32)
    weight[0], weight[1] = 0, 0
    for tensor, value in zip(model.graph.initializer, (weight, bias), strict=True):
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    int8 = qdq.quantize(model, "g", tiny.everything_int8(model), dialect)
    assert constants(int8)["c0.weight.scale"][0] == 1
    out = execute(int8, tmp_path)(x=np.ones((1, 3, 8, 8), np.float32))
    np.testing.assert_array_equal(out[:, 0], 0)
    np.testing.assert_allclose(out[:, 1], 0.123456, rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["c0.weight", "c0.bias"])
def test_a_weight_that_is_not_finite_never_becomes_int8(which: str, value: float) -> None:
    model = tiny.conv_net((3, 4))
    spoiled = constants(model)[which].copy()
    spoiled.flat[5 % spoiled.size] = value
    next(t for t in model.graph.initializer if t.name == which).CopyFrom(
        numpy_helper.from_array(spoiled, which)
    )
    with pytest.raises(InputError, match=rf"E-NONFINITE\] g/{which} holds NaN or infinite values"):
        qdq.quantize(model, "g", tiny.everything_int8(model), ORT)


@pytest.mark.parametrize(
    "low, high",
    [(float("nan"), 1), (0, float("nan")), (0, float("inf")), (0, 1e39), (1, 2), (-2, -1)],
)
def test_a_range_is_finite_and_holds_zero(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a range must be finite in float32 and hold 0"):
        Range(low, high)


FLOATS = st.floats(0, 3.3999999521443642e38, width=32, allow_subnormal=True)


@given(
    FLOATS,
    FLOATS,
    st.sampled_from([OV, ORT, TRT, Dialect(activation="uint8"), Dialect(symmetric=False)]),
)
def test_every_range_gives_a_usable_scale_that_covers_it(
    low: float, high: float, dialect: Dialect
) -> None:
    made = qdq.Scale.of(Range(-low, high), dialect)
    _, _, least, most = qdq.TYPES[made.kind]
    assert np.isfinite(made.scale) and made.scale >= 1e-18 and least <= made.zero_point <= most
    # zero is written exactly
    assert np.float32(0) == made.scale * np.float32(made.zero_point - made.zero_point)
    step = float(made.scale)
    assert (least - made.zero_point) * step <= -low + 0.51 * step + 1e-6 * low
    assert (most - made.zero_point) * step >= high - 0.51 * step - 1e-6 * high


def test_a_constant_zero_tensor_gets_scale_one() -> None:
    assert [qdq.Scale.of(Range(0, 0), d).scale for d in (OV, TRT)] == [1, 1]


def test_openvino_is_caught_where_it_computes_a_file_wrongly(tmp_path: Path) -> None:
    """Signed activations behind a Concat: OpenVINO's CPU plug-in gave other numbers than the file
    says, so its dialect is unsigned. Whichever way the version at hand computes it, the referee
    must say the truth about it.
    """
    model = tiny.conv_net((16, 16), (16, 16), (16, 16), concat=True)
    int8 = qdq.quantize(model, "g", tiny.everything_int8(model), TRT)
    x = np.random.default_rng(0).uniform(-2, 2, (4, 16, 8, 8)).astype(np.float32)
    judge, full = execute(int8, tmp_path / "r", "reference"), execute(model, tmp_path / "f")
    openvino = execute(int8, tmp_path / "o", "openvino")
    found = {"g": parity.referee(openvino, judge, full, [{"x": x}])}
    error = (
        decibel(judge(x=x), openvino(x=x)) if not np.array_equal(judge(x=x), openvino(x=x)) else 200
    )
    if error < parity.WORST_DB:
        with pytest.raises(
            GateFailed,
            match=r"E-PARITY\] openvino computes INT8 graph g wrongly: .* leave openvino out",
        ):
            parity.check_referee("openvino", found)
    else:
        parity.check_referee("openvino", found)
    unsigned = qdq.quantize(model, "g", tiny.everything_int8(model), OV)
    good = parity.referee(
        execute(unsigned, tmp_path / "u", "openvino"),
        execute(unsigned, tmp_path / "v", "reference"),
        full,
        [{"x": x}],
    )
    parity.check_referee("openvino", {"g": good})


@pytest.mark.export
def test_candidates_are_floats_only() -> None:
    found = qdq.candidates(tiny.models()["theta"])
    inferred = onnx.shape_inference.infer_shapes(tiny.models()["theta"])
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert {"x", "t"} <= set(found) and len(set(found)) == len(found)
    assert all(kinds.get(t, TensorProto.FLOAT) == TensorProto.FLOAT for t in found)


def test_a_resize_by_computed_sizes_keeps_its_integers() -> None:
    """Shape arithmetic that feeds a joining op is no activation."""
    sizes = [
        helper.make_node("Shape", ["h"], ["s"], "shape"),
        helper.make_node("Concat", ["s"], ["s2"], "sizes", axis=0),
    ]
    first = helper.make_node("Conv", ["x", "w"], ["h"], "a", pads=[1, 1, 1, 1])
    resize = helper.make_node("Resize", ["h", "", "", "s2"], ["u"], "resize", mode="nearest")
    last = helper.make_node("Conv", ["u", "w"], ["y"], "b", pads=[1, 1, 1, 1])
    weight = numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")
    model = tiny.graph_of([first, *sizes, resize, last], [weight], 3, 3)
    int8 = qdq.quantize(model, "g", tiny.everything_int8(model), ORT)
    assert list(nodes(int8, "Resize")["resize"].input) == ["h.dq", "", "", "s2"]


@pytest.mark.parametrize("relu", [False, True])
def test_onnx_runtime_gets_int8_outputs_whatever_reads_them(relu: bool, tmp_path: Path) -> None:
    """A float reader of a convolution's output would make the convolution a float one; a graph's
    own output stays as it is.
    """
    weights = [
        numpy_helper.from_array(np.full((4, 4, 1, 1), 0.5, np.float32), n)
        for n in ("a.weight", "b.weight")
    ]
    steps = [("Conv", ["x", "a.weight"], "c"), *([("Relu", ["c"], "r")] if relu else [])]
    written = steps[-1][2]
    steps += [
        ("Sigmoid", [written], "s"),
        ("Tanh", [written], "t"),
        ("Mul", ["s", "t"], "m"),
        ("Conv", ["m", "b.weight"], "y"),
    ]
    plain = tiny.graph_of(
        [helper.make_node(op, reads, [out], out) for op, reads, out in steps], weights, 4, 4
    )
    model = qdq.quantize(plain, "g", tiny.everything_int8(plain), ORT)
    made = makers(model)
    for kind in ("Sigmoid", "Tanh"):
        pair = made[nodes(model, kind)[kind[0].lower()].input[0]]
        assert pair.op_type == "DequantizeLinear" and made[pair.input[0]].input[0] == written
    assert "y.q" not in made and ("c.q" in made) is not relu
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(
        execute(model, tmp_path)(x=x), execute(plain, tmp_path / "f")(x=x), atol=0.15
    )
    kept = qdq.quantize(plain, "g", tiny.everything_int8(plain), OV)
    assert f"{written}.q" not in makers(kept)
