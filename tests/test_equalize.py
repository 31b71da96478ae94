"""Channel equalization changes no output and evens the channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from onnx import helper, numpy_helper

from edgegen.calibrate.equalize import ChannelObserver, equalized, read_tensors
from edgegen.core.runtime import Pipeline


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    out: np.ndarray = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, inputs)[0]
    return out


@pytest.fixture(scope="module")
def observed() -> dict[str, ChannelObserver]:
    found = {name: ChannelObserver(model, 1) for name, model in tiny.models().items()}
    Pipeline(tiny.generator().latent, tiny.generator().sampler, found, 8)(range(16))
    return found


@pytest.mark.export
def test_the_graph_computes_the_same(observed: dict[str, ChannelObserver]) -> None:
    for name, model in tiny.models().items():
        even = equalized(model, observed[name].largest)
        assert even.SerializeToString() != model.SerializeToString()
        for inputs in tiny.calls()[name]:
            np.testing.assert_allclose(
                run(even, **inputs), run(model, **inputs), rtol=1e-4, atol=1e-4
            )


@pytest.mark.export
def test_channels_are_evener_afterwards(observed: dict[str, ChannelObserver]) -> None:
    def spread(largest: dict[str, np.ndarray]) -> float:
        return float(np.median([np.log(v[v > 0]).std() for v in largest.values()]))

    for name, model in tiny.models().items():
        again = ChannelObserver(equalized(model, observed[name].largest), 1)
        for inputs in tiny.calls()[name]:
            again(**inputs)
        assert spread(again.largest) < spread(observed[name].largest)


def test_a_tensor_that_something_else_reads_keeps_its_scale() -> None:
    """conv -> relu -> conv is free; with a Sigmoid on the same tensor it is not, since sigmoid(x /
    s) is another function.
    """
    weights = [
        numpy_helper.from_array(np.full((4, 4, 1, 1), 0.5, np.float32), n)
        for n in ("a.weight", "b.weight")
    ]
    chain = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], "a"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b.weight"], ["y"], "b"),
    ]
    free = tiny.graph_of(chain, weights, 4, 4)
    assert read_tensors(free) == ["r"]
    gated = [
        *chain[:2],
        helper.make_node("Conv", ["r", "b.weight"], ["z"], "b"),
        helper.make_node("Sigmoid", ["r"], ["g"], "gate"),
        helper.make_node("Add", ["z", "g"], ["y"], "sum"),
    ]
    assert read_tensors(tiny.graph_of(gated, weights, 4, 4)) == []


@pytest.mark.parametrize("parts", [["t", "r"], ["r", "t"], ["t", "u", "r"]])
def test_channels_beside_those_that_no_layer_wrote_are_found(parts: list[str]) -> None:
    """How many channels a tensor has is known where a layer with weights wrote it; a concatenation
    with one other part says how many that has, and with two others says nothing.
    """
    rng = np.random.default_rng(0)
    inputs = 6 + 4 * (len(parts) - 1)
    shapes = {"a.weight": (6, 4, 1, 1), "b.weight": (4, inputs, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["r"], "a"),
        helper.make_node("Sigmoid", ["x"], ["t"], "t"),
        helper.make_node("Tanh", ["x"], ["u"], "u"),
        helper.make_node("Concat", parts, ["joined"], "join", axis=1),
        helper.make_node("Conv", ["joined", "b.weight"], ["y"], "b"),
    ]
    model = tiny.graph_of(nodes, weights, 4, 4)
    observer, x = ChannelObserver(model, 1), rng.normal(0, 1, (2, 4, 8, 8)).astype(np.float32)
    assert observer.tensors == ([] if "u" in parts else ["r"])
    observer(x=x)
    even = equalized(model, observer.largest)
    assert (even.SerializeToString() == model.SerializeToString()) == ("u" in parts)
    np.testing.assert_allclose(run(even, x=x), run(model, x=x), rtol=1e-4, atol=1e-5)


def test_silent_channels_are_left_alone() -> None:
    weights = [
        numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), n)
        for n in ("a.weight", "b.weight")
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["c"], "a"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b.weight"], ["y"], "b"),
    ]
    even = equalized(
        tiny.graph_of(nodes, weights, 2, 2), {"r": np.array([[0.0, 8.0], [0.0, 0.0]], np.float32)}
    )
    made = {t.name: numpy_helper.to_array(t) for t in even.graph.initializer}
    assert np.isfinite(made["a.weight"]).all() and np.allclose(made["a.weight"], 1)


def modulated(*more: onnx.NodeProto) -> onnx.ModelProto:
    """x -> its style, x times it -> convolution -> divided by the root of the squared styles'
    energy: StyleGAN2's layer.
    """
    rng = np.random.default_rng(0)
    shapes = {
        "a.weight": (6, 4, 1, 1),
        "style.weight": (6, 4),
        "style.bias": (6,),
        "b.weight": (4, 6, 3, 3),
        "energy": (6, 4),
    }
    values = {name: rng.normal(0, 1, shape) for name, shape in shapes.items()}
    values["energy"] = np.square(values["energy"]) + 0.1
    values["style.weight"] *= np.array([1, 10, 0.1, 1, 1, 3])[:, None]
    values["style.bias"] += np.array([9, -9, 9, -90, 9, 9])
    weights = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()]
    weights += [
        numpy_helper.from_array(np.array(axes, np.int64), n)
        for n, axes in (("axes", [2, 3]), ("flat", [0, 4]))
    ]
    steps = [
        ("Conv", ["x", "a.weight"], "c"),
        ("LeakyRelu", ["c"], "h"),
        ("ReduceMax", ["x", "axes"], "top"),
        ("Reshape", ["top", "flat"], "z"),
        ("Gemm", ["z", "style.weight", "style.bias"], "s"),
        ("Unsqueeze", ["s", "axes"], "wide"),
        ("Mul", ["h", "wide"], "styled"),
        ("Conv", ["styled", "b.weight"], "made"),
        ("Mul", ["s", "s"], "square"),
        ("MatMul", ["square", "energy"], "power"),
        ("Sqrt", ["power"], "root"),
        ("Reciprocal", ["root"], "d"),
        ("Unsqueeze", ["d", "axes"], "gain"),
        ("Mul", ["made", "gain"], "y"),
    ]
    attributes: dict[str, dict[str, Any]] = {"made": {"pads": [1, 1, 1, 1]}, "s": {"transB": 1}}
    nodes = [
        helper.make_node(op, reads, [out], out, **attributes.get(out, {}))
        for op, reads, out in steps
    ]
    return tiny.graph_of([*nodes, *more], weights, 4, 4)


def test_styles_take_the_channels_scale_and_sign() -> None:
    model = modulated()
    assert read_tensors(model) == ["styled"]
    seen = ChannelObserver(model, 1)
    x = np.random.default_rng(1).normal(size=(8, 4, 8, 8)).astype(np.float32)
    seen(x=x)
    even = equalized(model, seen.largest)
    np.testing.assert_allclose(run(even, x=x), run(model, x=x), rtol=1e-4, atol=1e-5)
    again = ChannelObserver(even, 1)
    again(x=x)
    before, after = seen.largest["styled"], again.largest["styled"]
    assert np.log(after.max(0)).std() < 0.7 * np.log(before.max(0)).std()
    assert (before[0] < before[1]).any() and (after[0] >= after[1]).all()


def test_styles_whose_squares_something_else_reads_keep_their_scale() -> None:
    assert (
        read_tensors(modulated(helper.make_node("Softmax", ["square"], ["other"], "other"))) == []
    )
