"""ONNX files of other programs as sources: whatever opset, batch and inputs they have, the graph
that is made of them computes what the file did; what cannot be taken is one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_toys
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx_toys import changed, written

from edgegen.bring.onnx_inputs import house_name, input_uses
from edgegen.bring.onnx_source import BroughtOnnx, OnnxChoices, OnnxTools, bring_onnx
from edgegen.bring.sampler_file import read_sampler
from edgegen.calibrate.choose import fastest, multiplications
from edgegen.core.graph import executed
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import sampler_to_json
from edgegen.errors import EdgegenError
from edgegen.export import qdq
from edgegen.export.onnx import to_onnx
from edgegen.export.opset import OPSET, opset_of, raised
from edgegen.workflows.generators import torch_pipeline


def load(data: bytes) -> Callable[..., Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)[0]


@pytest.fixture(autouse=True)
def no_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that tries what nobody vouches for has tests of its own, and takes seconds."""
    monkeypatch.setattr("edgegen.export.door.tried", lambda *given: None)


def brought(path: Path, **choices: Any) -> BroughtOnnx:
    tools = OnnxTools(lambda data: raised(GraphFile.of(path, data)), load)
    data = path.read_bytes()
    return bring_onnx(path, onnx.load_from_string(data), data, OnnxChoices(**choices), tools)


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
def test_a_generator_of_any_opset_computes_what_it_did(opset: int, tmp_path: Path) -> None:
    path = onnx_toys.one_step(tmp_path / "theirs.onnx", opset)
    found = brought(path)
    model = to_onnx(found.graphs()["generator"], "generator")
    assert opset_of(model) == OPSET and found.opset == opset
    assert [value.name for value in model.graph.input] == ["x"]
    assert found.image_shape == (3, 16, 16) and found.latent.noise.shape == ("batch", 4)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    x = found.latent.start(range(5))
    expected = load(path.read_bytes())(z=x)
    np.testing.assert_allclose(load(model.SerializeToString())(x=x), expected, atol=1e-5)
    np.testing.assert_array_equal(executed(found.graphs())["generator"](x=x), expected)
    assert len(multiplications(model)) == 4  # its layers, with weights where INT8 looks
    assert {"h1", "h4", "m1"} <= set(qdq.candidates(model))  # what its convolutions read


def test_names_that_are_patterns_are_none_to_a_plan(tmp_path: Path) -> None:
    def patterns(model: onnx.ModelProto) -> None:
        made = {name for node in model.graph.node for name in node.output} - {"out"}
        for node in model.graph.node:
            for tensors in (node.input, node.output):
                tensors[:] = [f"{name}[*]" if name in made else name for name in tensors]

    path = changed(onnx_toys.one_step(tmp_path / "theirs.onnx"), patterns)
    made = to_onnx(brought(path).graphs()["generator"], "g")
    chosen = fastest({"g": made})
    kept = {rule.removeprefix("g/") for rule, precision in chosen.rules if precision == "fp32"}
    full = [n.name for n in made.graph.node if chosen.precision("g", n.name) == "fp32"]
    assert kept and kept == set(full)


TIMES = [("n", "int64"), ("n", "float32"), ((), "int64"), ((), "float32"), ((1,), "float32")]


@pytest.mark.parametrize(("axes", "kind"), TIMES)
def test_a_timestep_comes_as_the_file_takes_it(axes: Any, kind: str, tmp_path: Path) -> None:
    shape = (axes,) if axes == "n" else axes
    path = onnx_toys.denoiser(tmp_path / "theirs.onnx", t=("timestep", shape, kind))
    found = brought(path, **written(tmp_path))
    assert len(found.sampler.timesteps) == 50
    graph = found.graphs()["denoiser"]
    assert [(spec.name, spec.dtype) for spec in graph.inputs] == [
        ("x", "float32"),
        ("t", "float32"),
        ("cond", "float32"),
    ]
    x, cond = found.latent.start(range(3)), np.arange(4, dtype=np.float32)
    t = np.full(3, 421, np.float32)
    theirs = t[:1].reshape(shape) if axes != "n" else t
    full = np.repeat(cond[None], 3, 0)
    expected = load(path.read_bytes())(sample=x, timestep=theirs.astype(kind), cond=full)
    got = load(graph.model)(x=x, t=t, cond=full)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    other = load(graph.model)(x=x, t=t * 0, cond=full)
    assert np.abs(other - expected).max() > 1e-3  # it is no constant


def test_a_batch_of_one_becomes_one_that_varies(tmp_path: Path) -> None:
    time = ("timestep", (1,), "float32")
    path = onnx_toys.denoiser(tmp_path / "theirs.onnx", 13, 1, time, row=(-1, 1, 1, 1))
    found = brought(path, **written(tmp_path))
    assert found.graphs()["denoiser"].inputs[0].shape == ("batch", 3, 16, 16)
    images = torch_pipeline(found.with_steps(2))(range(3))
    calls = {name: load(graph.model) for name, graph in found.graphs().items()}
    made = Pipeline(found.latent, found.with_steps(2).sampler, calls)(range(3))
    np.testing.assert_allclose(made, images, atol=1e-4)
    fixed = onnx_toys.one_step(tmp_path / "fixed.onnx", batch=1)
    refused(lambda: brought(fixed), "its batch of 1 is built in", "batch axis that varies")


def test_a_size_is_said_where_axes_vary(tmp_path: Path) -> None:
    path = changed(onnx_toys.denoiser(tmp_path / "theirs.onnx"), varying)
    choices = written(tmp_path)
    refused(lambda: brought(path, **choices), "fixed sizes", "sample=noise:3x64x64")
    rest = choices["inputs"][1:]
    found = brought(path, **{**choices, "inputs": ("sample=noise:3x8x24", *rest)})
    assert found.image_shape == (3, 8, 24)
    for wrong in ("3x8", "1x8x8", "3x0x8", "3x8x8x8", "3x8xy"):
        other = {**choices, "inputs": (f"sample=noise:{wrong}", *rest)}
        refused(partial(brought, path, **other), "'sample' is 3xnxn an image")


def varying(model: onnx.ModelProto) -> None:
    sample, _, cond = model.graph.input
    for value, first in ((sample, 2), (cond, 1), (model.graph.output[0], 2)):
        for axis in value.type.tensor_type.shape.dim[first:]:
            axis.dim_param = "size"


def test_steps_are_the_scheduler_s(tmp_path: Path) -> None:
    path = onnx_toys.denoiser(tmp_path / "theirs.onnx")
    choices = written(tmp_path)
    found = brought(path, **choices)
    assert len(found.with_steps(5).sampler.timesteps) == 5
    data = tmp_path / "sampler.json"
    data.write_text(json.dumps(sampler_to_json(found.with_steps(3).sampler)))
    same = brought(path, **{**choices, "sampler": data})
    assert same.sampler == found.with_steps(3).sampler
    refused(lambda: same.with_steps(2), "--steps is for a scheduler_config.json")
    halves = {**json.loads(data.read_text()), "timesteps": [10.5, 5, 0]}
    data.write_text(json.dumps(halves))
    refused(lambda: brought(path, **{**choices, "sampler": data}), "takes whole timesteps")
    euler = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace"}
    data.write_text(json.dumps(euler))
    even = {**choices, "sampler": data}
    refused(lambda: brought(path, **even), "takes whole timesteps")


def test_pixels_of_another_range_come_to_minus_one_and_one(tmp_path: Path) -> None:
    plain = onnx_toys.one_step(tmp_path / "theirs.onnx")
    x = brought(plain).latent.start(range(3))
    expected = load(plain.read_bytes())(z=x)
    ours = brought(plain, scale=(0.0, 255.0)).graphs()["generator"]
    for call in (load(ours.model), ours.call):
        np.testing.assert_allclose(call(x=x), expected / 127.5 - 1, atol=1e-5)
    path = onnx_toys.denoiser(tmp_path / "denoiser.onnx")
    loop = brought(path, scale=(0.0, 1.0), **written(tmp_path)).with_steps(2)
    assert set(loop.graphs()) == {"denoiser", "decoder"} and loop.sampler.decoder  # type: ignore[attr-defined]
    decoder = loop.graphs()["decoder"]
    image = np.linspace(0, 1, 3 * 3 * 256, dtype=np.float32).reshape(3, 3, 16, 16)
    for call in (load(decoder.model), decoder.call):
        np.testing.assert_allclose(call(x=image), image * 2 - 1, atol=1e-6)
    refused(lambda: brought(plain, scale=(1.0, 0.0)), "--output-range", "got 1,0")


@pytest.mark.parametrize("kind", ["latent-ddim", "consistency"])
def test_loops_that_decode_get_a_graph_for_it(kind: str, tmp_path: Path) -> None:
    path, choices = onnx_toys.denoiser(tmp_path / "theirs.onnx"), written(tmp_path)
    data = {"kind": kind, "timesteps": [900, 400], "signal": [0.1, 0.6], "prediction": "epsilon"}
    (tmp_path / "sampler.json").write_text(json.dumps(data))
    found = brought(path, **{**choices, "sampler": tmp_path / "sampler.json"})
    images = torch_pipeline(found)(range(2))
    calls = {name: load(graph.model) for name, graph in found.graphs().items()}
    np.testing.assert_allclose(
        Pipeline(found.latent, found.sampler, calls)(range(2)), images, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_labels_are_one_hot_or_numbers(kind: str, tmp_path: Path) -> None:
    path = onnx_toys.labelled(tmp_path / "theirs.onnx", kind)
    found = brought(path, inputs=("z=noise", "y=labels:5"))
    assert found.latent.classes == 5
    call = found.latent.condition(range(4), 3)
    x = found.latent.start(range(4))
    got = load(found.graphs()["generator"].model)(x=x, **call)
    theirs = np.full(4, 3) if kind == "int64" else call["label"]
    np.testing.assert_allclose(got, load(path.read_bytes())(z=x, y=theirs), atol=1e-5)


def test_names_of_the_file_never_meet_ours(tmp_path: Path) -> None:
    """Its tensors are called as ours are, and as a plan's patterns would read otherwise."""
    path = onnx_toys.one_step(tmp_path / "theirs.onnx")
    model = onnx.load(path)
    names = {"h0": "x", "h2": "image", "h3": "a[*]", "w1": "conv?.weight", "h5": "range_factor"}
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for k, name in enumerate(tensors):
                tensors[k] = names.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    path.write_bytes(model.SerializeToString())
    found = brought(path, scale=(0.0, 1.0))
    ours = to_onnx(found.graphs()["generator"], "generator")
    assert not any(set("[]*?") & set(node.name) for node in ours.graph.node)
    assert house_name("x") == "given_x" and house_name("a/b.c") == "a_b_c"
    assert house_name("0") == "given_0" and house_name("null_cond") == "given_null_cond"


def test_weights_that_are_nodes_are_found(tmp_path: Path) -> None:
    path = onnx_toys.one_step(tmp_path / "theirs.onnx")
    model = onnx.load(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    weight = weights["w2"]
    model.graph.initializer.remove(weight)
    made = [
        helper.make_node("Constant", [], ["made"], value=weight),
        helper.make_node("Identity", ["made"], ["w2"]),
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.write_bytes(model.SerializeToString())
    ours = to_onnx(brought(path).graphs()["generator"], "generator")
    assert {node.op_type for node in ours.graph.node}.isdisjoint({"Constant", "Identity"})
    assert "w2" in {tensor.name for tensor in ours.graph.initializer}


def refused(act: Callable[[], object], *parts: str) -> None:
    with pytest.raises(EdgegenError) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said and all(part in said for part in parts), said


def quantized(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("QuantizeLinear", ["out", "w1"], ["q"]))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["q", "w1"], ["again"]))
    model.graph.output[0].name = "again"


def narrow(model: onnx.ModelProto) -> None:
    (weight,) = (t for t in model.graph.initializer if t.name == "w1")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), "w1"))


def infinite(model: onnx.ModelProto) -> None:
    (weight,) = (t for t in model.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(weight).copy()
    values[0] = np.inf
    weight.CopyFrom(numpy_helper.from_array(values, "w1"))


def half_inputs(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def two_outputs(model: onnx.ModelProto) -> None:
    other = helper.make_tensor_value_info("h3", onnx.TensorProto.FLOAT, ("n", 8, 8, 8))
    model.graph.output.append(other)


def newer(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


REFUSED: list[tuple[Callable[[onnx.ModelProto], object], Sequence[str]]] = [
    (quantized, ("it is quantized already", "QuantizeLinear")),
    (narrow, ("'w1' is float16", "float32 is wanted")),
    (infinite, ("E-NONFINITE", "'w1' holds NaN or infinite")),
    (half_inputs, ("'z' is no float32 or int64 tensor",)),
    (two_outputs, ("it has 2 outputs, 'out', 'h3'", "--output NAME")),
    (newer, ("its opset is 21, and 20 is the newest",)),
]


@pytest.mark.parametrize(("change", "parts"), REFUSED)
def test_a_file_that_cannot_be_taken(
    change: Callable[[onnx.ModelProto], object], parts: Sequence[str], tmp_path: Path
) -> None:
    path = changed(onnx_toys.one_step(tmp_path / "theirs.onnx"), change)
    refused(lambda: brought(path), *parts)


def test_an_operator_that_cannot_be_raised_is_named(tmp_path: Path) -> None:
    image = ("n", 3, 8, 8)
    path = onnx_toys.saved(
        tmp_path / "theirs.onnx",
        [helper.make_node("ThresholdedRelu", ["x"], ["out"])],
        [("x", image, "float32")],
        [("out", image, "float32")],
        [],
        opset=9,
    )
    refused(lambda: brought(path), "cannot raise it from opset 9 to 20", "ThresholdedRelu")


def test_one_of_several_outputs_is_named(tmp_path: Path) -> None:
    path = changed(onnx_toys.one_step(tmp_path / "theirs.onnx"), two_outputs)
    found = brought(path, output="out")
    assert len(to_onnx(found.graphs()["generator"], "g").graph.output) == 1
    refused(lambda: brought(path, output="h9"), "no output 'h9'", "'out', 'h3'")
    refused(lambda: brought(path, output="h3"), "(8, 8, 8), which is no image")
    refused(lambda: brought(path, inputs=("z=timestep",)), "one input is given noise")


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        (("z",), ("'z' is not name=what",)),
        (("q=noise",), ("no input 'q'", "'z', 'y'")),
        (("z=noise", "z=noise"), ("'z' is given something twice",)),
        (("z=noise",), ("nothing is said of what the input 'y' is given", "--inputs y=noise")),
        (("z=noise", "y=noise"), ("one input is given noise, and no other",)),
        (("z=noise", "y=photos"), ("'y' cannot be given 'photos'", "FILE.npy")),
        ((), ("nothing is said of what the input 'z' is given",)),
    ],
)
def test_every_input_is_given_something(said: Sequence[str], parts: Sequence[str]) -> None:
    refused(lambda: input_uses(said, ["z", "y"], Path("theirs.onnx")), *parts)


@pytest.mark.parametrize(
    ("uses", "parts"),
    [
        (("z=noise", "y=labels"), ("labels need their number",)),
        (("z=noise", "y=labels:0"), ("labels need their number",)),
        (("z=noise", "y=labels:7"), ("7 labels are one-hot", "(batch, 5)")),
        (("z=noise", "y=timestep"), ("one number an image", "(5,)")),
        (("z=noise", "y={}/none.npy"), ("none.npy", "cannot be read")),
        (("z=noise", "y={}/objects.npy"), ("no .npy file of numbers",)),
        (("z=noise", "y={}/long.npy"), ("takes (5) an image, and the file holds (6,)",)),
        (("z=noise", "y={}/nan.npy"), ("NaN or infinite",)),
    ],
)
def test_what_an_input_cannot_be_given(
    uses: Sequence[str], parts: Sequence[str], tmp_path: Path
) -> None:
    path = onnx_toys.labelled(tmp_path / "theirs.onnx", "float32")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "long.npy", np.zeros(6))
    np.save(tmp_path / "nan.npy", np.full(5, np.nan))
    refused(lambda: brought(path, inputs=[use.format(tmp_path) for use in uses]), *parts)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ([], ("no JSON object",)),
        ({}, ("the sampler is None", "latent-ddim")),
        ({"kind": "cascade"}, ("the sampler is 'cascade'",)),
        ({"kind": "single", "graphs": ["a", "b"]}, ("runs 2 graphs, and there is one",)),
        ({"kind": "single", "colour": 1}, ("the sampler cannot be used", "colour")),
        ({"kind": "single", "a": 1e12}, ("holds a number beyond",)),
        ({"_class_name": "FlowScheduler"}, ("'FlowScheduler'",)),
    ],
)
def test_a_file_that_is_no_sampler(data: object, parts: Sequence[str], tmp_path: Path) -> None:
    (path := tmp_path / "sampler.json").write_text(json.dumps(data))
    refused(lambda: read_sampler(path), *parts)


def test_sampler_and_graph_have_to_fit(tmp_path: Path) -> None:
    path, choices = onnx_toys.denoiser(tmp_path / "theirs.onnx"), written(tmp_path)
    single = {**choices, "sampler": None}
    refused(lambda: brought(path, **single), "'timestep' is given timesteps, and a single call")
    untimed = onnx_toys.one_step(tmp_path / "gan.onnx")
    sampler = choices["sampler"]
    refused(lambda: brought(untimed, sampler=sampler), "no input is given it", "NAME=timestep")
    named = ("sample=timestep", "timestep=noise", choices["inputs"][2])
    refused(lambda: brought(path, **{**choices, "inputs": named}), "one number an image")
