"""Measure which layer's rounding damages which region of a generator's images in INT8: predicted,
and checked by putting layers back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.plan import Plan
from ...core.progress import Listener, silent
from ...core.runtime import Pipeline, Runtime
from ...errors import UsageError
from ...export import executing, qdq
from ...export import onnx as onnx_files
from ...export.rounding import rounding
from ..generators import LoadedGenerator
from .hosted import hosted

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...explain.damage import Attribution, QuantizedLayer
    from ...explain.gates import Gated


class Quantized:
    """Build a generator's graphs with a plan's INT8 convolutions, whole or with one layer put back
    into full precision.

    `even` are the equalized ONNX models that a plan quantizes; `target` is the runtime in whose
    dialect the files are, executed by the stand-in if it cannot run here.
    """

    def __init__(
        self,
        source: LoadedGenerator,
        even: Mapping[str, ModelProto],
        plan: Plan,
        target: Runtime,
        threads: int,
        listen: Listener = silent,
    ) -> None:
        # not every product of an ONNX file has a name in the torch program, so products are left
        # out
        plan = replace(plan, linear=())
        self.source, self.even, self.plan, self.target = source, even, plan, target
        self.threads, self.listen = threads, listen
        self.host = executing(target)
        self.rounding = {g: rounding(m, self.file(g, plan)) for g, m in even.items()}

    def file(self, graph: str, plan: Plan) -> ModelProto:
        return qdq.quantize(self.even[graph], graph, plan, self.target.dialect)

    def put_back(self, path: str) -> Plan:
        return replace(self.plan, rules=((path, "fp32"), *self.plan.rules))

    def layers(self, gated: Mapping[str, Gated]) -> list[QuantizedLayer]:
        """Return the INT8 convolutions in the order of the graphs, each with the roundings that
        disappear when it is put back.
        """
        from ...explain.damage import QuantizedLayer

        found = []
        for graph, model in self.even.items():
            before, place = self.rounding[graph], {p: k for k, p in enumerate(gated[graph].places)}
            for node in model.graph.node:
                if node.output[0] in before.int8:
                    after = rounding(model, self.file(graph, self.put_back(f"{graph}/{node.name}")))
                    found.append(
                        QuantizedLayer(
                            graph,
                            node.name,
                            tuple(sorted(place[p] for p in before.places - after.places)),
                        )
                    )
        return found

    def attributed(
        self, masks: np.ndarray, seeds: Sequence[int], label: int | None
    ) -> tuple[list[QuantizedLayer], Attribution]:
        """Return the INT8 layers and how much each layer's rounding does to each region.

        Raises UsageError if the plan keeps no convolution in INT8.
        """
        from ...core.graph import torch_graphs
        from ...explain.damage import attribute
        from ...explain.gates import Gated

        graphs = torch_graphs(self.source.generator.graphs())
        gated = {
            k: Gated(g, onnx_files.traced(g, k)[1], self.rounding[k]) for k, g in graphs.items()
        }
        layers = self.layers(gated)
        if not layers:
            raise UsageError(
                "E-EXPLAIN", "the plan keeps no convolution in int8: there is no damage to map"
            )
        with self.listen.progress("attributing the damage", len(seeds)) as advance:
            return layers, attribute(
                self.source.generator, gated, layers, masks, seeds, label, advance
            )

    def removed(
        self,
        layers: Sequence[QuantizedLayer],
        rest: Pipeline,
        exact: np.ndarray,
        masks: np.ndarray,
        seeds: Sequence[int],
        label: int | None,
    ) -> np.ndarray:
        """Return (layers, seeds, regions): the squared error that goes when each layer alone is put
        back.

        `rest` is the pipeline with all in INT8.
        """
        from ...explain.agreement import by_region

        whole, left = by_region(rest(seeds, label) - exact, masks), []
        with self.listen.progress("putting each layer back", len(layers)) as advance:
            for layer in layers:
                files = {layer.graph: self.file(layer.graph, self.put_back(layer.path))}
                call = {
                    **rest.call,
                    **hosted(files, self.source.generator, self.threads, self.host).call,
                }
                left.append(
                    by_region(
                        Pipeline(rest.latent, rest.sampler, call)(seeds, label) - exact, masks
                    )
                )
                advance(1)
        return whole - np.stack(left)
