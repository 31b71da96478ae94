"""Operators whose output channels are not the first axis of their weight, in INT8; and graphs in
which nothing can be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.calibrate.choose import ends, fastest, multiplications
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.core.weights import GraphConstants
from edgegen.errors import InputError
from edgegen.export import engine, qdq, runtime
from edgegen.export import onnx as onnx_files
from edgegen.export.lint import lint

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 16, 8, 8)).astype(np.float32)
GREATLY = np.geomspace(1e-3, 1, 32, dtype=np.float32)  # how output channels differ


def grown(groups: int = 1) -> onnx.ModelProto:
    """x (b, 16, 8, 8) -> y (b, 32, 16, 16): a DCGAN's layer, whose channels differ greatly."""
    weight = RNG.standard_normal((16, 32 // groups, 4, 4)).astype(np.float32)
    weight *= GREATLY[: 32 // groups, None, None]
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w", "bias"],
        ["y"],
        "grow",
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        group=groups,
    )
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 16, 8, 8])],
        [value("y", TensorProto.FLOAT, ["batch", 32, 16, 16])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.linspace(-1, 1, 32, dtype=np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def plan(model: onnx.ModelProto) -> Plan:
    ranges = {n: Range(-5.0, 5.0) for n in qdq.candidates(model)}
    return Plan((("*", "int8"),), {"g": ranges}, linear=("*",))


@pytest.mark.parametrize("groups", [1, 4])
def test_each_output_channel_has_its_own_scale(groups: int, tmp_path: Path) -> None:
    """One scale for all would leave nothing of the small channels."""
    model = grown(groups)
    made = qdq.quantize(model, "g", plan(model), Dialect(int32_bias=True))
    assert GraphConstants(made.graph)["w.scale"].shape == (32 // groups,)
    onnx_files.write(model, tmp_path / "full.onnx")
    onnx_files.write(made, tmp_path / "g.onnx")
    wanted = runtime("onnxruntime").load(tmp_path / "full.onnx", 1)(x=X)
    found = runtime("onnxruntime").load(tmp_path / "g.onnx", 1)(x=X)
    wrong = np.sqrt(np.square(found - wanted).mean((0, 2, 3)))
    bias = np.linspace(-1, 1, 32)[None, :, None, None]
    assert (wrong < 0.05 * np.sqrt(np.square(wanted - bias).mean((0, 2, 3)))).all()


@pytest.mark.parametrize(("turned", "axis"), [(0, 1), (1, 0)])
def test_a_gemm_has_its_output_channels_where_it_says(turned: int, axis: int) -> None:
    shape = (6, 10) if turned == 0 else (10, 6)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "g", transB=turned)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 6])],
        [value("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    made = qdq.quantize(model, "g", plan(model), Dialect(int8_ops=frozenset({"Gemm"})))
    constants = GraphConstants(made.graph)
    weight, scale = GraphConstants(model.graph)["w"], constants["w.scale"]
    assert scale.shape == (10,)
    again = constants["w.int"] * np.expand_dims(scale, 1 - axis)
    assert np.abs(again - weight).max() <= scale.max() / 2 * 1.001


@pytest.mark.parametrize("host", ["onnxruntime", "openvino"])
def test_cpus_compute_a_transposed_convolution_in_int8(host: str, tmp_path: Path) -> None:
    """By the convolution of its phases (tests/test_phases.py)."""
    model = grown()
    target = runtime(host)
    made = qdq.quantize(model, "g", plan(model), target.dialect)
    assert "w.phases2x1.int" in GraphConstants(made.graph)
    assert not [finding for finding in lint(made, host) if finding.level == "error"]
    wanted = target.load(onnx_files.write(model, tmp_path / "full.onnx"), 1)(x=X)
    found = target.load(onnx_files.write(made, tmp_path / "g.onnx"), 1)(x=X)
    assert np.square(found - wanted).mean() < 1e-3 * np.square(wanted).mean()


@pytest.mark.slow
def test_tensorrt_takes_a_transposed_convolution_in_int8() -> None:
    pytest.importorskip("tensorrt_rtx")
    made = qdq.quantize(grown(), "g", plan(grown()), runtime("tensorrt-rtx").dialect)
    assert not [finding for finding in lint(made, "tensorrt-rtx") if finding.level == "error"]
    built = engine.engines("tensorrt_rtx", made.SerializeToString(), ("SM86",))
    assert isinstance(built, list), built


def test_a_transposed_convolution_is_one_of_those_that_a_plan_decides_on() -> None:
    assert ends(grown()) == ["grow"]
    assert multiplications(grown()) == {"grow": 16 * 32 * 4 * 4 * 8 * 8}


def test_graphs_in_which_nothing_can_be_int8_are_refused() -> None:
    target, dilated = runtime("onnxruntime"), grown()
    dilated.graph.node[0].attribute.append(helper.make_attribute("dilations", [2, 2]))
    qdq.check_any({"g": grown()}, fastest({"g": grown()}), target.name, target.dialect)
    with pytest.raises(InputError) as error:
        qdq.check_any({"g": dilated}, fastest({"g": dilated}), target.name, target.dialect)
    assert error.value.code == "E-NO-INT8"
    assert error.value.message == (
        "nothing in these graphs could be INT8 for onnxruntime, which quantizes Conv, Gemm, MatMul "
        "with constant weights of size: they have ConvTranspose"
    )
    most = fastest({"g": grown()})
    qdq.check_any({"g": grown()}, most, "openvino", runtime("openvino").dialect)
    qdq.check_any({"g": grown()}, most, "tensorrt-fp16", Dialect(int8_ops=frozenset()))
