"""Cuts of graphs: both halves together are the graph, to the last bit, for every family; nothing
passes a cut unnoticed.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from toys import CONFIG, shake, shaken

from edgegen.core.graph import Generator, Graph
from edgegen.core.spec import TensorSpec
from edgegen.core.tap import cuts
from edgegen.families import FAMILIES, family


@cache
def tiny(name: str) -> Generator:
    """A generator of the family's tiny recipe with random weights."""
    found = family(name)
    made = found.build(found.recipes["tiny"]().config)
    shake(made.networks, 0, 0.3)
    made.networks.eval()
    return made


def inputs(graph: Graph, batch: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {spec.name: torch.rand(spec.sized(batch=batch), generator=rng) for spec in graph.inputs}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_halves_of_every_cut_of_every_family_are_the_graph(name: str) -> None:
    found = 0
    for graph in tiny(name).graphs().values():
        given = inputs(graph, 3)
        with torch.no_grad():
            whole = graph.module(**given)
            for cut in cuts(graph):
                crossing = cut.before()(**given)
                again = cut.after()(**dict(zip((*cut.maps, *cut.beside), crossing, strict=True)))
                assert torch.equal(again, whole), cut.name
                assert [tuple(t.shape[1:]) for t in crossing[: len(cut.maps)]] == list(
                    cut.maps.values()
                )
                found += 1
    assert found >= 3


def test_a_block_s_skips_are_in_the_cut_and_its_insides_are_none() -> None:
    """Cas-DM's bottleneck comes with both skips; with what crosses at the baseline nothing of the
    image's own is left.
    """
    graph = shaken(CONFIG, scale=0.3)
    graph.networks.eval()
    theta = graph.graphs()["theta"]
    found = {cut.name: cut for cut in cuts(theta)}
    assert list(found) == [
        "trunk.stem",
        "trunk.down.0",
        "trunk.down.1",
        "trunk.middle",
        "trunk.up.0",
        "trunk.up.1",
    ]
    assert sorted(found["trunk.middle"].maps.values()) == [(16, 8, 8), (32, 4, 4), (32, 4, 4)]
    middle, given = found["trunk.middle"], inputs(theta, 2)
    with torch.no_grad():
        alike = middle.before()(**{**given, "t": given["t"][:1].expand(2)})
        crossing = dict(zip((*middle.maps, *middle.beside), alike, strict=True))
        assert not torch.equal(*middle.after()(**crossing))
        crossing |= {name: torch.zeros_like(crossing[name]) for name in middle.maps}
        assert torch.equal(*middle.after()(**crossing))


def test_isc_gan_is_cut_between_blocks_at_features_and_colours() -> None:
    synthesis = tiny("isc-gan").graphs()["synthesis"]
    found = {cut.name: sorted(cut.maps.values()) for cut in cuts(synthesis)}
    assert found["blocks.1"] == [(3, 8, 8), (16, 8, 8)]


class Two(nn.Module):
    """A foreign network without names of ours: x (b, 2, 4, 4) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Half(), Half()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) * (x.shape[0] / x.shape[0])


def test_a_foreign_network_is_cut_too_and_what_bypasses_the_cut_is_named() -> None:
    spec = TensorSpec("x", ("batch", 2, 4, 4))
    (first, *_) = cuts(Graph(Two().eval(), (spec,), TensorSpec("y", spec.shape)))
    assert first.name == "one" and first.beside == ("x",) and first.numbers == 32
