"""Channel equalization changes no output and evens the channels; the ladder keeps more and more in full precision."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from onnx import helper, numpy_helper

from edgegen.calibrate.choose import SHARES, ladder, multiplications
from edgegen.calibrate.equalize import ChannelObserver, equalized, read_tensors
from edgegen.core.runtime import Pipeline


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    out: np.ndarray = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    return out


@pytest.fixture(scope="module")
def observed() -> dict[str, ChannelObserver]:
    found = {name: ChannelObserver(model, 1) for name, model in tiny.models().items()}
    Pipeline(tiny.generator().latent, tiny.generator().sampler, found, 8)(range(16))
    return found


def test_the_graph_computes_the_same(observed: dict[str, ChannelObserver]) -> None:
    for name, model in tiny.models().items():
        even = equalized(model, observed[name].largest)
        assert even.SerializeToString() != model.SerializeToString()
        for inputs in tiny.calls()[name]:
            np.testing.assert_allclose(run(even, **inputs), run(model, **inputs), rtol=1e-4, atol=1e-4)


def test_channels_are_evener_afterwards(observed: dict[str, ChannelObserver]) -> None:
    def spread(largest: dict[str, np.ndarray]) -> float:
        return float(np.median([np.log(v[v > 0]).std() for v in largest.values()]))

    for name, model in tiny.models().items():
        again = ChannelObserver(equalized(model, observed[name].largest), 1)
        for inputs in tiny.calls()[name]:
            again(**inputs)
        assert spread(again.largest) < spread(observed[name].largest)


def test_a_tensor_that_something_else_reads_keeps_its_scale() -> None:
    """conv -> relu -> conv is free; with a Sigmoid on the same tensor it is not, since sigmoid(x / s) is another function."""
    weights = [numpy_helper.from_array(np.full((4, 4, 1, 1), 0.5, np.float32), n) for n in ("a.weight", "b.weight")]
    chain = [helper.make_node("Conv", ["x", "a.weight"], ["c"], "a"), helper.make_node("Relu", ["c"], ["r"], "relu"),
             helper.make_node("Conv", ["r", "b.weight"], ["y"], "b")]
    free = tiny.graph_of(chain, weights, 4, 4)
    assert read_tensors(free) == ["r"]
    gated = [*chain[:2], helper.make_node("Conv", ["r", "b.weight"], ["z"], "b"),
             helper.make_node("Sigmoid", ["r"], ["g"], "gate"), helper.make_node("Add", ["z", "g"], ["y"], "sum")]
    assert read_tensors(tiny.graph_of(gated, weights, 4, 4)) == []


def test_silent_channels_are_left_alone() -> None:
    weights = [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), n) for n in ("a.weight", "b.weight")]
    nodes = [helper.make_node("Conv", ["x", "a.weight"], ["c"], "a"), helper.make_node("Relu", ["c"], ["r"], "relu"),
             helper.make_node("Conv", ["r", "b.weight"], ["y"], "b")]
    even = equalized(tiny.graph_of(nodes, weights, 2, 2), {"r": np.array([0.0, 8.0], np.float32)})
    made = {t.name: numpy_helper.to_array(t) for t in even.graph.initializer}
    assert np.isfinite(made["a.weight"]).all() and np.allclose(made["a.weight"], 1)


def test_rungs_keep_more_and_the_most_damaging_first() -> None:
    models, base = tiny.models(), tiny.plan()
    costs = {name: multiplications(model) for name, model in models.items()}
    inner = {name: [n for n in graph if base.precision(name, n) == "int8"] for name, graph in costs.items()}
    worst = min(inner["theta"], key=lambda n: costs["theta"][n])
    damage = {name: {n: (1e6 if n == worst else 1.0) * costs[name][n] for n in nodes} for name, nodes in inner.items()}
    plans = ladder(base, models, damage)
    kept = [{(g, n) for g, nodes in inner.items() for n in nodes if p.precision(g, n) == "fp32"} for p in plans]
    assert all(a < b for a, b in pairwise(kept))
    assert any(("theta", worst) in k for k in kept) and ("theta", worst) in kept[-1]
    whole = sum(sum(c.values()) for c in costs.values())
    ends = sum(c for g, graph in costs.items() for n, c in graph.items() if n not in inner[g])
    assert sum(costs[g][n] for g, n in kept[-1]) + ends <= max(SHARES[-1] * whole, ends)
