"""Programs with a gate before each rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapters import master
from subjects import subjects

from edgegen.calibrate.observe import session
from edgegen.errors import EdgegenError
from edgegen.evidence.bench import record
from edgegen.explain.gates import Gated
from edgegen.families import FAMILIES, family
from edgegen.training.adapt import site
from edgegen.workflows.generators import torch_pipeline


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_gates_round_as_the_file_does_or_not_at_all(name: str) -> None:
    """Open ones as ONNX Runtime executes the file, but for values near a half; closed ones give the
    graph's own output.
    """
    found, files = subjects(name)
    made = site.plain(family(name), family(name).recipes["tiny"]().config, master(name))
    calls = record(torch_pipeline(made), range(100, 104))
    places = 0
    for graph, subject in found.items():
        gated, inputs = Gated(subject.graph, subject.program, subject.rounding), calls[graph][-1]
        assert set(gated.places) == subject.rounding.places
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        with torch.no_grad():
            exact, whole = (
                gated(torch.full((4, len(gated.places)), gate), **given).numpy()
                for gate in (0.0, 1.0)
            )
        np.testing.assert_allclose(
            exact, made.graphs()[graph].module(**given).detach().numpy(), rtol=1e-3, atol=1e-4
        )
        shipped = session(files[graph], 1).run(None, inputs)[0]
        assert np.square(whole - shipped).mean() <= 0.4 * np.square(exact - shipped).mean() + 1e-10
        places += len(gated.places)
    assert places


@pytest.mark.slow
def test_gates_are_each_images_own() -> None:
    subject = subjects("isc-gan")[0]["synthesis"]
    gated = Gated(subject.graph, subject.program, subject.rounding)
    rng = torch.Generator().manual_seed(0)
    inputs = {
        s.name: torch.rand(s.sized(batch=1), generator=rng).repeat_interleave(2, 0)
        for s in subject.graph.inputs
    }
    gates = torch.stack([torch.zeros(len(gated.places)), torch.ones(len(gated.places))])
    with torch.no_grad():
        exact, rounded = gated(gates, **inputs)
        torch.testing.assert_close(exact, gated(gates * 0, **inputs)[0], rtol=1e-4, atol=1e-5)
    assert (exact - rounded).abs().max() > 1e-4


@pytest.mark.export
def test_another_graphs_rounding_is_refused() -> None:
    found, _ = subjects("isc-gan")
    other = subjects("isc-gan")[0]["mapping"]
    with pytest.raises(EdgegenError, match=r"the program has no \w+, which its file rounds"):
        Gated(other.graph, other.program, found["synthesis"].rounding)
