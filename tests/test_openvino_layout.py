"""OpenVINO: vectors that join images are computed as images of one pixel, and nothing else
changes.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgegen.export import runtime
from edgegen.export.openvino_layout import vectors_as_pixels
from edgegen.export.ov import _openvino

if find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)
openvino = _openvino()  # not by a bare import, which would look up a host
RNG = np.random.default_rng(0)
CONSTANTS = {
    "conv": RNG.normal(size=(8, 3, 3, 3)),
    "style": RNG.normal(size=(8, 5)),
    "bias": RNG.normal(size=8),
    "energy": RNG.uniform(0.5, 1.0, (8, 8)),
    "small": 1e-3,
    "axes": np.array([2, 3]),
}


def graph(
    *middle: onnx.NodeProto, last: str, extra: tuple[onnx.NodeProto, ...] = ()
) -> onnx.ModelProto:
    """Features y of an image x beside a vector w; `last` (n, 8) multiplies them."""
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["y"], pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("Unsqueeze", [last, "axes"], ["wide"]),
        helper.make_node("Mul", ["y", "wide"], ["joined"]),
        *extra,
    ]
    constants = [
        numpy_helper.from_array(np.asarray(v, np.int64 if k == "axes" else np.float32), k)
        for k, v in CONSTANTS.items()
    ]
    out = extra[-1].output[0] if extra else "joined"
    made = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 6, 6]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["batch", 5]),
        ],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


STYLE = helper.make_node("Gemm", ["w", "style", "bias"], ["s"], transB=1)
DEMODULATED = (
    STYLE,
    helper.make_node("Mul", ["s", "s"], ["squares"]),
    helper.make_node("MatMul", ["squares", "energy"], ["sums"]),
    helper.make_node("Add", ["sums", "small"], ["more"]),
    helper.make_node("Sqrt", ["more"], ["root"]),
    helper.make_node("Reciprocal", ["root"], ["d"]),
)


def kinds(model: Any) -> list[str]:
    return [op.get_type_name() for op in model.get_ordered_ops()]


def both(made: onnx.ModelProto, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "g.onnx"
    onnx.save(made, path)
    feeds = {
        "x": RNG.normal(size=(2, 3, 6, 6)).astype(np.float32),
        "w": RNG.normal(size=(2, 5)).astype(np.float32),
    }
    theirs = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
        None, feeds
    )[0]
    return runtime("openvino").load(path, 1)(**feeds), theirs


@pytest.mark.parametrize(
    ("middle", "last", "convolutions"), [((STYLE,), "s", 2), (DEMODULATED, "d", 3)]
)
def test_products_on_a_vector_become_convolutions_on_a_pixel(
    middle: tuple[onnx.NodeProto, ...], last: str, convolutions: int, tmp_path: Path
) -> None:
    made = graph(*middle, last=last)
    ours, theirs = both(made, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    model = openvino.Core().read_model(str(tmp_path / "g.onnx"))
    assert kinds(model).count("MatMul") == convolutions - 1
    assert vectors_as_pixels(model, openvino) == 1
    found = kinds(model)
    assert found.count("Convolution") == convolutions and "MatMul" not in found
    assert vectors_as_pixels(model, openvino) == 0  # what are pixels already stays


def test_a_vector_that_two_images_read_is_computed_once(tmp_path: Path) -> None:
    second = (
        helper.make_node("Unsqueeze", ["s", "axes"], ["again"]),
        helper.make_node("Add", ["joined", "again"], ["out"]),
    )
    made = graph(STYLE, last="s", extra=second)
    ours, theirs = both(made, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    model = openvino.Core().read_model(str(tmp_path / "g.onnx"))
    assert vectors_as_pixels(model, openvino) == 2 and kinds(model).count("Convolution") == 2


def test_a_constant_of_each_image_is_no_row(tmp_path: Path) -> None:
    """(2, 8) for two images: a pixel's constant would be (1, 16, 1, 1)."""
    CONSTANTS["each"] = RNG.normal(size=(2, 8))
    try:
        made = graph(STYLE, helper.make_node("Mul", ["s", "each"], ["m"]), last="m")
    finally:
        del CONSTANTS["each"]
    for value in made.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    ours, theirs = both(made, tmp_path)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_no_image_is_joined_with_stays(tmp_path: Path) -> None:
    """A vector that goes on as a vector, and one that is reshaped to an image of its own."""
    made = graph(STYLE, last="s")
    nodes = [n for n in made.graph.node if n.op_type != "Mul"]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.output[0].name = "wide"
    onnx.save(made, tmp_path / "g.onnx")
    model = openvino.Core().read_model(str(tmp_path / "g.onnx"))
    assert vectors_as_pixels(model, openvino) == 0 and kinds(model).count("MatMul") == 1
