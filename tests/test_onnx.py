"""FP32 ONNX: equal to torch, the same bytes each time, nothing of this machine inside."""

from __future__ import annotations

import getpass
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from torch import Tensor, nn

from edgegen.core.graph import Graph
from edgegen.core.spec import TensorSpec
from edgegen.errors import EdgegenError
from edgegen.export import runtime
from edgegen.export.onnx import to_onnx, write
from edgegen.export.opset import OPSET

GRAPHS = ("theta", "phi")
X, Y = TensorSpec("x", ("batch", 3, 8, 8)), TensorSpec("y", ("batch", 3, 8, 8))


@pytest.mark.export
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_what_torch_computes_at_every_batch(
    name: str, batch: int, tmp_path: Path
) -> None:
    session = runtime("onnxruntime").load(write(tiny.models()[name], tmp_path / "g.onnx"), 1)
    for inputs in tiny.calls()[name]:
        few = {k: np.resize(v, (batch, *v.shape[1:])) for k, v in inputs.items()}
        wanted = tiny.torch_images().call[name](**few)
        assert np.abs(wanted).max() > 0.1, "a graph that gives nothing proves nothing"
        np.testing.assert_allclose(session(**few), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_exports_are_the_same_bytes(tmp_path: Path) -> None:
    again = to_onnx(tiny.generator().graphs()["theta"], "theta")
    a, b = write(again, tmp_path / "a.onnx"), write(tiny.models()["theta"], tmp_path / "b.onnx")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.export
@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_of_this_machine_is_inside(name: str) -> None:
    data = tiny.models()[name].SerializeToString()
    here = Path(__file__).resolve()
    for secret in (
        str(here.parent),
        str(Path.home()) + "/",
        "site-packages",
        "stack_trace",
        "torch.fx",
    ):
        assert secret.encode() not in data, secret
    if len(getpass.getuser()) > 4:  # a short name appears in floats by chance
        assert getpass.getuser().encode() not in data
    assert tiny.models()[name].producer_version == ""


@pytest.mark.export
@pytest.mark.parametrize("name", GRAPHS)
def test_the_file_says_what_it_needs(name: str) -> None:
    model = tiny.models()[name]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    graph = tiny.generator().graphs()[name]
    assert [i.name for i in model.graph.input] == [spec.name for spec in graph.inputs]
    assert [o.name for o in model.graph.output] == [graph.output.name]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(t.external_data for t in model.graph.initializer)


@pytest.mark.export
def test_tokens_go_in_as_integers(tmp_path: Path) -> None:
    table = nn.Embedding(7, 4).eval()
    tokens = TensorSpec("tokens", ("batch", 5), "int64")
    made = to_onnx(Graph(table, (tokens,), TensorSpec("y", ("batch", 5, 4))), "text")
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    some: np.ndarray = np.arange(15).reshape(3, 5) % 7
    session = runtime("onnxruntime").load(write(made, tmp_path / "g.onnx"), 1)
    assert np.array_equal(session(tokens=some), table(torch.from_numpy(some)).detach().numpy())
    with pytest.raises(ValueError, match="tokens: a tensor is float32 or int64, got 'string'"):
        TensorSpec("tokens", ("batch", 5), "string")


@pytest.mark.export
def test_nodes_are_named_by_their_place_and_once() -> None:
    names = [node.name for node in tiny.models()["theta"].graph.node]
    assert len(set(names)) == len(names)
    assert {"trunk.stem.conv", "trunk.head", "trunk.middle.first.conv"} <= set(names)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("gain", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu()) * self.gain


@pytest.mark.slow
def test_a_weight_that_two_nodes_read_names_them_apart() -> None:
    model = to_onnx(Graph(Shared().eval(), (X,), Y), "shared")
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert (
        len(convs) == len(set(convs)) == 2 and convs[0] == "conv" and convs[1].startswith("conv.")
    )


@pytest.mark.export
@pytest.mark.parametrize("where", ["conv.weight", "gain"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(where: str, value: float) -> None:
    module = Shared().eval()
    with torch.no_grad():
        {**dict(module.named_parameters()), **dict(module.named_buffers())}[where].view(-1)[0] = (
            value
        )
    with pytest.raises(
        EdgegenError, match=rf"E-NONFINITE\] shared.{where} holds NaN or infinite values"
    ):
        to_onnx(Graph(module, (X,), Y), "shared")


def test_input_and_output_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs and output of a graph need different names"):
        Graph(Shared().eval(), (X,), X)


def test_a_module_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        Graph(Shared(), (X,), Y)


@pytest.mark.slow
def test_the_exporters_logger_is_left_as_it_was() -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        to_onnx(Graph(Shared().eval(), (X,), Y), "shared")
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(before)


@pytest.mark.export
def test_the_checker_takes_it() -> None:
    for model in tiny.models().values():
        onnx.checker.check_model(model, full_check=True)
