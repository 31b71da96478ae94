"""Small generators as ONNX files of other programs hold them, random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": True}
DENOISER = ("sample=noise", "timestep=timestep")
MIDDLE = ("w3", (8, 8, 3, 3))  # of a convolution that is neither the first nor the last
Axis = int | str
Given = tuple[str, tuple[Axis, ...], str]  # name, shape, type


def weights(*shapes: tuple[str, tuple[int, ...]], seed: int = 0) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    return [
        numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name)
        for name, shape in shapes
    ]


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Given],
    outputs: Sequence[Given],
    tensors: Sequence[onnx.TensorProto],
    opset: int = 17,
    domains: Sequence[str] = (),
) -> Path:
    def value(given: Given) -> onnx.ValueInfoProto:
        name, shape, kind = given
        return helper.make_tensor_value_info(name, KINDS[kind], shape)

    graph = helper.make_graph(
        list(nodes), "theirs", list(map(value, inputs)), list(map(value, outputs)), list(tensors)
    )
    model = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(d, 1) for d in domains),
        ],
        ir_version=8,
    )
    path.write_bytes(model.SerializeToString())
    return path


def one_step(path: Path, opset: int = 17, batch: Axis = "n", channels: int = 3) -> Path:
    """z of 4 numbers -> an image of 16 px: a linear layer and three convolutions."""
    node = helper.make_node
    sizes = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes")
    shape = numpy_helper.from_array(np.array([-1 if batch != 1 else 1, 4, 8, 8]), "shape")
    nodes = [
        node("Gemm", ["z", "w0"], ["h0"], transB=1),
        node("Reshape", ["h0", "shape"], ["h1"]),
        node("Conv", ["h1", "w1"], ["h2"], pads=[1, 1, 1, 1]),
        node("Relu", ["h2"], ["h3"]),
        node("Resize", ["h3", "", "sizes"], ["h4"], mode="nearest"),
        node("Conv", ["h4", "w3"], ["m0"], pads=[1, 1, 1, 1]),
        node("Relu", ["m0"], ["m1"]),
        node("Conv", ["m1", "w2"], ["h5"], pads=[1, 1, 1, 1]),
        node("Tanh", ["h5"], ["out"]),
    ]
    tensors = weights(("w0", (256, 4)), ("w1", (8, 4, 3, 3)), ("w2", (channels, 8, 3, 3)), MIDDLE)
    return saved(
        path,
        nodes,
        [("z", (batch, 4), "float32")],
        [("out", (batch, channels, 16, 16), "float32")],
        [*tensors, sizes, shape],
        opset,
    )


def denoiser(
    path: Path,
    opset: int = 17,
    batch: Axis = "n",
    t: Given = ("timestep", ("n",), "int64"),
    row: Sequence[int] = (),
) -> Path:
    """sample (3, 16, 16), a timestep and a constant `cond` of 4 numbers -> noise; row: the shape
    that it gives its timestep.
    """
    node = helper.make_node
    single = 1 if not t[1] or t[1] == (1,) else -1
    reshape = numpy_helper.from_array(np.array(row or [single, 1, 1, 1]), "column")
    wide = numpy_helper.from_array(np.array([-1, 8, 1, 1]), "wide")
    thousandth = numpy_helper.from_array(np.array(1e-3, np.float32), "thousandth")
    nodes = [
        node("Cast", [t[0]], ["t0"], to=TensorProto.FLOAT),
        node("Mul", ["t0", "thousandth"], ["t1"]),
        node("Reshape", ["t1", "column"], ["t2"]),
        node("Gemm", ["cond", "w0"], ["c0"], transB=1),
        node("Reshape", ["c0", "wide"], ["c1"]),
        node("Conv", ["sample", "w1"], ["x"], pads=[1, 1, 1, 1]),
        node("Add", ["x", "t2"], ["h1"]),
        node("Add", ["h1", "c1"], ["h2"]),
        node("Relu", ["h2"], ["h3"]),
        node("Conv", ["h3", "w3"], ["m0"], pads=[1, 1, 1, 1]),
        node("Relu", ["m0"], ["m1"]),
        node("Conv", ["m1", "w2"], ["noise"], pads=[1, 1, 1, 1]),
    ]
    tensors = weights(("w0", (8, 4)), ("w1", (8, 3, 3, 3)), ("w2", (3, 8, 3, 3)), MIDDLE)
    image = (batch, 3, 16, 16)
    return saved(
        path,
        nodes,
        [("sample", image, "float32"), t, ("cond", (batch, 4), "float32")],
        [("noise", image, "float32")],
        [*tensors, reshape, wide, thousandth],
        opset,
    )


def labelled(path: Path, kind: str) -> Path:
    """z of 4 numbers and one of 5 classes, one-hot or its number -> an image of 16 px."""
    node = helper.make_node
    five = numpy_helper.from_array(np.array(5), "five")
    off_on = numpy_helper.from_array(np.array([0, 1], np.float32), "off_on")
    shape = numpy_helper.from_array(np.array([-1, 3, 16, 16]), "shape")
    is_number = kind == "int64"
    nodes = [
        *([node("OneHot", ["y", "five", "off_on"], ["hot"])] if is_number else []),
        node("Concat", ["z", "hot" if is_number else "y"], ["both"], axis=1),
        node("Gemm", ["both", "w0"], ["h0"], transB=1),
        node("Reshape", ["h0", "shape"], ["h1"]),
        node("Conv", ["h1", "w1"], ["out"], pads=[1, 1, 1, 1]),
    ]
    tensors = weights(("w0", (768, 9)), ("w1", (3, 3, 3, 3)))
    y: Given = ("y", ("n",), "int64") if is_number else ("y", ("n", 5), "float32")
    return saved(
        path,
        nodes,
        [("z", ("n", 4), "float32"), y],
        [("out", ("n", 3, 16, 16), "float32")],
        [*tensors, shape, *([five, off_on] if is_number else [])],
    )


def written(folder: Path) -> dict[str, Any]:
    """Files beside a denoiser, and the choices that name them."""
    np.save(folder / "cond.npy", np.arange(4))
    (folder / "scheduler.json").write_text(json.dumps(DDIM))
    uses = (*DENOISER, f"cond={folder / 'cond.npy'}")
    return {"inputs": uses, "sampler": folder / "scheduler.json"}


def changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path
