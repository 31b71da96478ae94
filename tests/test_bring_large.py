"""Brought graphs that count as large: traced without their weights, which stay in the type in which
they lie in the folder.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import bring_toys
import numpy as np
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import load_file, save_file

from edgegen.bring.brought import bring
from edgegen.core import weight_file, weights
from edgegen.core.graph import Graph, executed
from edgegen.export import onnx as onnx_files
from edgegen.export import runtime


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Graph]:
    folder = bring_toys.prompted(tmp_path / "folder")
    half = {name: tensor.half() for name, tensor in load_file(folder / bring_toys.UNET).items()}
    save_file(half, folder / bring_toys.UNET)
    monkeypatch.setattr(weights, "APART_BYTES", 64)
    monkeypatch.setattr(weight_file, "APART_BYTES", 64)
    monkeypatch.setattr(weight_file, "INLINE_BYTES", 64)
    brought = bring(folder)
    text = brought.text()
    assert text is not None
    return {**brought.graphs(), "text": text}


@pytest.mark.slow
def test_a_large_graph_is_what_torch_computes(graphs: dict[str, Graph], tmp_path: Path) -> None:
    inputs: dict[str, dict[str, np.ndarray]] = {
        "denoiser": {
            "x": bring_toys.numbers(3, 4, 8, 8),
            "t": np.array([961, 500.25, 1], np.float32),
            "context": bring_toys.numbers(3, bring_toys.TOKENS, 12),
        },
        "decoder": {"x": bring_toys.numbers(3, 4, 8, 8)},
        "text": {"tokens": np.arange(3 * bring_toys.TOKENS).reshape(3, -1)},
    }
    torch_calls = executed(graphs)
    for name, graph in graphs.items():
        assert all(tensor.is_meta for tensor in graph.module.parameters()), name
        model = onnx_files.to_onnx(graph, name)
        kinds = {t.data_type for t in model.graph.initializer if weights.is_apart(t)}
        assert kinds == {TensorProto.FLOAT16 if name == "denoiser" else TensorProto.FLOAT}
        path = onnx_files.write(model, tmp_path / f"{name}.onnx")
        assert path.with_suffix(".weights").is_file()
        wanted = torch_calls[name](**inputs[name])
        found = runtime("onnxruntime").load(path, 1)(**inputs[name])
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
        convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
        if name == "denoiser":
            assert "unet.conv_in" in convolutions


@pytest.mark.slow
def test_a_graph_is_traced_once(graphs: dict[str, Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers asks whether there are 64 images or more; of both answers torch traces one."""
    traced: list[object] = []
    export = torch.export.export

    def counted(*args: Any, **kwargs: Any) -> object:
        traced.append(args[0])
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counted)
    for name, graph in graphs.items():
        onnx_files.traced(graph, name)
        assert gc.isenabled()
    assert len(traced) == len(graphs)
