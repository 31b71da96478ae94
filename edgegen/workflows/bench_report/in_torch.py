"""Execute full precision in torch, plain and compiled: what a user has who exports nothing.

A bundle holds no torch program, so only generators of the zoo have these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ...core.bundle import sha256
from ...core.spec import Array
from ...export.packages import absent, installed
from ..generators import load_generator, zoo_models
from ..torch_threads import torch_threads

if TYPE_CHECKING:
    from torch import nn

    from ...core.bundle import Bundle
    from ...core.graph import ExportGraph
    from ...core.runtime import Pipeline

PACKAGE, GROUP = "torch", "train"


@dataclass(frozen=True)
class TorchProgram:
    """Execute a zoo generator in torch; the report shows `name` as its runtime."""

    name: str
    is_compiled: bool

    def version(self) -> str:
        return installed((PACKAGE,))

    def device(self) -> str:
        return "CPU"

    def why_not(self, bundle: Bundle) -> str:
        """Return why torch cannot run the bundle's generator on this machine, or "" if it can."""
        if why := absent(PACKAGE, GROUP):
            return why
        source = bundle.manifest.source
        entry = next((e for e in zoo_models() if e.name == source.get("name")), None)
        if entry is None:
            return "torch cannot run it, because the generator is not from the zoo"
        if sha256(entry.weights) != source.get("weights_sha256"):
            return "the zoo of this edgegen version has other weights than the bundle"
        return ""

    def pipeline(self, bundle: Bundle, threads: int, batch: int) -> Pipeline:
        """Return the generator's torch graphs as a pipeline with the bundle's own start and
        sampler.
        """
        graphs = load_generator(str(bundle.manifest.source["name"])).generator.graphs()
        return bundle.of(
            {name: self._call(graph, threads) for name, graph in graphs.items()}, batch
        )

    def _call(self, graph: ExportGraph, threads: int) -> Callable[..., Array]:
        call = (_compiled(graph) if self.is_compiled else graph).executed()

        def with_threads(**inputs: Array) -> Array:
            with torch_threads(threads):
                return call(**inputs)

        return with_threads


def _compiled(graph: ExportGraph) -> ExportGraph:
    import torch

    from ...core.graph import torch_graphs

    (own,) = torch_graphs({"graph": graph}).values()
    compiled = torch.compile(own.loaded())
    return replace(own, module=cast("nn.Module", compiled), weights={})


PROGRAMS: Mapping[str, TorchProgram] = {
    one.name: one for one in (TorchProgram("torch", False), TorchProgram("torch.compile", True))
}
