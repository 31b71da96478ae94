"""A remembered trace is only given to a graph that would give the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from onnx import ModelProto
from torch import nn
from trace_memory import identity, remembering, shared_folder

from edgegen.core.graph import Graph
from edgegen.core.spec import TensorSpec
from edgegen.export.onnx import to_onnx


class Scaled(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.conv(x) * self.factor
        return scaled


X, Y = (TensorSpec(name, ("batch", 3, 4, 4)) for name in "xy")


def graph(change: Callable[[Scaled], object] = lambda _: None) -> Graph:
    torch.manual_seed(0)
    module = Scaled().eval()
    change(module)
    return Graph(module, (X,), Y)


def nudged(module: Scaled) -> None:
    with torch.no_grad():
        module.conv.weight[0, 0] += 1e-6


@pytest.mark.parametrize(
    "change",
    [
        nudged,
        lambda m: setattr(m, "factor", 3.0),
        lambda m: setattr(m, "conv", nn.Conv2d(3, 3, 1, padding_mode="reflect")),
    ],
)
def test_what_changes_a_graph_changes_its_identity(change: Callable[[Scaled], object]) -> None:
    assert identity(graph(), "g") == identity(graph(), "g") != identity(graph(change), "g")
    assert identity(graph(), "g") != identity(graph(), "other")


def test_what_cannot_be_told_is_not_remembered() -> None:
    assert identity(graph(lambda m: m.register_forward_hook(lambda *_: None)), "g") is None
    assert identity(graph(lambda m: setattr(m, "act", torch.relu)), "g") is None


def test_one_trace_serves_two_workers_and_none_sees_another_s_edits(tmp_path: Path) -> None:
    asked = 0

    def export(one: Graph, name: str) -> ModelProto:
        nonlocal asked
        asked += 1
        return to_onnx(one, name)

    remembered = remembering(export, tmp_path)
    toy = tiny.generator().graphs()["phi"]
    first = remembered(toy, "phi")
    kept = first.SerializeToString(deterministic=True)
    del first.graph.node[:]
    for worker in (remembered, remembering(export, tmp_path)):
        assert worker(toy, "phi").SerializeToString(deterministic=True) == kept
    assert asked == 1


def test_traces_of_other_code_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trace_memory

    (tmp_path / "cache").mkdir()
    (source := tmp_path / "edgegen/core/graph.py").parent.mkdir(parents=True)
    monkeypatch.setattr(trace_memory, "ROOT", tmp_path)
    found = []
    for code in ("a = 1", "a = 2", "a = 2"):
        source.write_text(code)
        found.append(shared_folder(tmp_path / "cache"))
        assert list((tmp_path / "cache").iterdir()) == [found[-1]]
    assert found[0] != found[1] == found[2]
