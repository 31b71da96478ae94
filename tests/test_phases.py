"""Transposed convolutions as convolutions of phases: the same sums, whatever stride, kernel, pads
and groups; in INT8, whole numbers until they are in their places.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart
from edgegen.export import RUNTIMES, phases, qdq, runtime
from edgegen.export import onnx as onnx_files
from edgegen.export.lint import lint

Said = dict[str, Any]
HEIGHT, WIDTH = 5, 4
CPUS = ("onnxruntime", "openvino")
DCGAN: Said = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


def layer(weight: np.ndarray, said: Said, bias: bool = True, relu: bool = False) -> onnx.ModelProto:
    """x (b, in, 5, 4) -> y: one transposed convolution, and perhaps a ReLU."""
    rng = np.random.default_rng(2)
    channels = weight.shape[1] * said.get("group", 1)
    held = [numpy_helper.from_array(weight, "w")]
    if bias:
        held.append(numpy_helper.from_array(rng.standard_normal(channels).astype("f"), "bias"))
    names = ["x", *(tensor.name for tensor in held)]
    nodes = [helper.make_node("ConvTranspose", names, ["z" if relu else "y"], "grow", **said)]
    if relu:
        nodes.append(helper.make_node("Relu", ["z"], ["y"], "relu"))
    return model_of(nodes, held, weight.shape[0])


def model_of(
    nodes: list[NodeProto], held: list[TensorProto], channels: int, ends: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", channels, HEIGHT, WIDTH])],
        [value(name, TensorProto.FLOAT, ["batch", "c", "h", "w"]) for name in ends],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its transposed convolutions as convolutions, and nothing quantized."""
    out, moves = phases.with_phases(model, {o for node in model.graph.node for o in node.output})
    nodes = []
    for node in out.graph.node:
        (tensor,) = node.output
        nodes.append(node)
        if tensor in moves:
            node.output[0] = f"{tensor}.phases"
            nodes += moves[tensor].nodes(
                f"{tensor}.phases",
                tensor,
                lambda n, v: out.graph.initializer.append(numpy_helper.from_array(v, n)),
            )
    made = onnx.ModelProto()
    made.CopyFrom(out)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made, full_check=True)
    return made


def ran(model: onnx.ModelProto, folder: Path, x: np.ndarray, by: str = "onnxruntime") -> np.ndarray:
    host = runtime(by)
    folder.mkdir(exist_ok=True, parents=True)
    file = onnx_files.write(model, folder / "g.onnx")
    made: np.ndarray = host.load(host.build(file, folder)[0], 1)(x=x)
    return made


def images(channels: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((2, channels, HEIGHT, WIDTH)).astype(np.float32)


def plan(model: onnx.ModelProto, precision: str = "int8") -> Plan:
    ranges = {n: Range(-6.0, 6.0) for n in qdq.candidates(model)}
    return Plan((("*", precision),), {"g": ranges})  # type: ignore[arg-type]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def decibel(signal: np.ndarray, other: np.ndarray) -> float:
    noise = np.square(signal - other).mean()
    return float(10 * np.log10(np.square(signal).mean() / noise)) if noise else np.inf


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(*[st.integers(0, 4)] * 4),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.booleans(),
)
def test_the_sums_are_those_of_the_transposed_convolution(
    tmp_path_factory: pytest.TempPathFactory,
    stride: int,
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    longer: tuple[int, int],
    group: int,
    bias: bool,
    relu: bool,
) -> None:
    assume(max(longer) < stride)
    sizes = zip((HEIGHT, WIDTH), kernel, pads[:2], pads[2:], longer, strict=True)
    assume(all((n - 1) * stride + k - a - b + more > 0 for n, k, a, b, more in sizes))
    weight = np.random.default_rng(0).standard_normal((4, 8 // group, *kernel)).astype(np.float32)
    said: Said = {"strides": [stride] * 2, "pads": pads, "output_padding": longer, "group": group}
    model = layer(weight, said, bias, relu)
    made = in_float(model)
    assert "ConvTranspose" not in operators(made)
    folder, x = tmp_path_factory.mktemp("phases"), images(4)
    wanted, found = ran(model, folder / "a", x), ran(made, folder / "b", x)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_layer_of_a_dcgan_takes_a_quarter_of_its_kernel_a_phase() -> None:
    """16 weights at 4 phases: as many products a pixel as before, and no more."""
    made = in_float(layer(np.ones((4, 8, 4, 4), np.float32), DCGAN))
    assert operators(made) == ["Conv", "DepthToSpace", "Slice"]
    (weight,) = (t for t in made.graph.initializer if t.name == "w.phases2x1")
    assert list(weight.dims) == [8 * 4, 4, 2, 2]


@pytest.mark.parametrize(
    "said",
    [
        {"dilations": [2, 2]},
        {"strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"output_shape": [12, 10], "strides": [2, 2]},
    ],
    ids=["dilated", "two strides", "padded by the runtime", "size said"],
)
def test_others_stay_what_they_are(said: Said) -> None:
    """In full precision where the runtime has no kernel for them."""
    model = layer(np.ones((4, 8, 3, 3), np.float32), said)
    dialects = {host: runtime(host).dialect for host in CPUS}
    made = {host: qdq.quantize(model, "g", plan(model), d) for host, d in dialects.items()}
    assert operators(made["onnxruntime"]) == ["ConvTranspose"]
    assert "ConvTranspose" in operators(made["openvino"])
    assert "w.int" in GraphConstants(made["openvino"].graph)


def test_a_weight_that_is_computed_stays_one() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["turned"], "turn"),
        helper.make_node("ConvTranspose", ["x", "turned"], ["y"], "grow", strides=[2, 2]),
    ]
    model = model_of(nodes, [numpy_helper.from_array(np.ones((4, 8, 2, 2), np.float32), "w")], 4)
    assert not phases.has_phases(nodes[1], GraphConstants(model.graph))


def random_layer(said: Said = DCGAN, relu: bool = True) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((16, 16, 4, 4)).astype(np.float32) / 8
    return layer(weight, said, relu=relu)


@pytest.mark.parametrize("host", CPUS)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("relu", [True, False])
def test_in_int8_two_implementations_agree_near_full_precision(
    host: str, group: int, relu: bool, tmp_path: Path
) -> None:
    """The numpy evaluator and the runtime share no kernel."""
    model, x = random_layer({**DCGAN, "group": group}, relu), images(16)
    if group > 1:
        small = np.random.default_rng(0).standard_normal((16, 4, 4, 4)).astype(np.float32) / 4
        model = layer(small, {**DCGAN, "group": group}, relu=relu)
    made = qdq.quantize(model, "g", plan(model), runtime(host).dialect)
    assert "ConvTranspose" not in operators(made)
    assert not [finding for finding in lint(made, host) if finding.level == "error"]
    wanted = ran(model, tmp_path / "full", x)
    theirs = ran(made, tmp_path / "judge", x, "reference")
    assert decibel(wanted, theirs) > 25
    assert decibel(theirs, ran(made, tmp_path / "own", x, host)) > decibel(wanted, theirs) + 6


def test_whole_numbers_are_moved_where_a_kernel_writes_them() -> None:
    """Four times fewer bytes, and no operator between a kernel and what rounds for it."""
    model = random_layer()
    weight = np.random.default_rng(0).standard_normal((8, 16, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "v"))
    model.graph.node[-1].output[0] = "r"
    model.graph.node.append(helper.make_node("Conv", ["r", "v"], ["y"], "end"))
    kept = Plan((("g/end", "fp32"), ("*", "int8")), plan(model).ranges)
    made = qdq.quantize(model, "g", kept, runtime("onnxruntime").dialect)
    maker = {name: node for node in made.graph.node for name in node.output}
    (spread,) = (node for node in made.graph.node if node.op_type == "DepthToSpace")
    rounds = maker[spread.input[0]]
    relu = maker[rounds.input[0]]
    assert (rounds.op_type, relu.op_type) == ("QuantizeLinear", "Relu")
    assert maker[relu.input[0]].name == "grow"
    assert not list(lint(made, "onnxruntime"))


def test_what_else_reads_a_layer_gets_its_pixels(tmp_path: Path) -> None:
    """A ReLU that does not read alone stays behind the move; so does an end of the graph."""
    weight = np.random.default_rng(0).standard_normal((16, 16, 4, 4)).astype(np.float32) / 8
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["z"], "grow", **DCGAN),
        helper.make_node("Relu", ["z"], ["r"], "relu"),
        helper.make_node("Mul", ["z", "r"], ["y"], "mul"),
    ]
    model, x = model_of(nodes, [numpy_helper.from_array(weight, "w")], 16), images(16)
    for host in CPUS:
        made = qdq.quantize(model, "g", plan(model), runtime(host).dialect)
        wanted = ran(model, tmp_path / "full", x)
        assert decibel(wanted, ran(made, tmp_path / host, x, host)) > 20


def test_a_weight_of_two_layers_is_written_once() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 16, 4, 4)).astype(np.float32) / 8
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["a"], "first", **DCGAN),
        helper.make_node("ConvTranspose", ["a", "w"], ["y"], "second", **DCGAN),
    ]
    model = model_of(nodes, [numpy_helper.from_array(weight, "w")], 16)
    made = qdq.quantize(model, "g", plan(model), runtime("openvino").dialect)
    assert [t.name for t in made.graph.initializer if t.name.endswith(".int")] == [
        "w.phases2x1.int"
    ]


@pytest.mark.parametrize("name", RUNTIMES)
def test_full_precision_and_runtimes_with_a_kernel_of_their_own_keep_it(name: str) -> None:
    model, dialect = random_layer(), runtime(name).dialect
    kept = operators(qdq.quantize(model, "g", plan(model, "fp32"), dialect))
    assert "ConvTranspose" in kept
    assert "DepthToSpace" not in kept
    made = operators(qdq.quantize(model, "g", plan(model), dialect))
    assert ("ConvTranspose" in made) != dialect.phases


def test_plans_speak_of_the_layers_that_the_model_has() -> None:
    """One plan serves runtimes that write a layer in different ways."""
    model = random_layer()
    dialects: list[Dialect] = [runtime(name).dialect for name in CPUS]
    for dialect in dialects:
        both = [replace(dialect, phases=value) for value in (True, False)]
        found = [
            qdq.quantized_tensors(
                model, "g", plan(model), replace(d, int8_ops=d.int8_ops | {"ConvTranspose"})
            )
            for d in both
        ]
        assert found[0] == found[1] <= set(qdq.candidates(model))
        (node,) = qdq.int8_nodes(model, "g", plan(model), dialect)
        assert (node.name, node.op_type) == ("grow", "ConvTranspose")


def test_weights_in_a_file_give_the_same_whole_numbers(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 128, 4, 4), np.float32)
    model = layer(weight, DCGAN)
    large = onnx.ModelProto()
    large.CopyFrom(model)
    place = [t.name for t in large.graph.initializer].index("w")
    large.graph.initializer[place].CopyFrom(constant(weight, "w", apart=True))
    assert is_apart(large.graph.initializer[place])

    def makes(m: onnx.ModelProto) -> onnx.ModelProto:
        return qdq.quantize(m, "g", plan(model), runtime("onnxruntime").dialect)

    small, apart = (GraphConstants(makes(m).graph) for m in (model, large))
    assert {*small} == {*apart}
    assert any(is_apart(t) for t in makes(large).graph.initializer)
    for name in small:
        np.testing.assert_array_equal(small[name], apart[name])
    x = np.random.default_rng(1).standard_normal((2, 64, HEIGHT, WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(
        ran(makes(large), tmp_path / "a", x), ran(makes(model), tmp_path / "b", x)
    )
