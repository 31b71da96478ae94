"""Find how much time each layer saves in INT8. One layer of each kind is timed; if there is only
time for a few kinds, the others are estimated from their multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...calibrate.choose import kinds, multiplications

if TYPE_CHECKING:
    from onnx import ModelProto

Layer = tuple[str, str]  # graph, node
Kind = tuple[str, str]  # graph, and what determines a layer's time


@dataclass(frozen=True)
class LayerTimes:
    """Estimate the time saved by layers of `models`, whose graphs run `calls` times in a
    trajectory.

    `timed` takes a graph and some of its layers and gives the milliseconds that each saves. `most`
    limits the kinds that are timed to those with most multiplications; None times all. `least` is
    the least time in milliseconds that a layer which saves any is given.
    """

    models: Mapping[str, ModelProto]
    calls: Mapping[str, int]
    timed: Callable[[str, Sequence[str]], Mapping[str, float]]
    most: int | None
    least: float

    def saved(self, layers: Sequence[Layer], advance: Callable[[int], None]) -> list[float]:
        """Return the milliseconds that each layer saves; calls advance(1) after each graph."""
        work, kind_of = self._work(), self._kinds()
        first: dict[Kind, Layer] = {}
        whole: dict[Kind, int] = {}
        for layer in layers:
            kind = kind_of[layer]
            first.setdefault(kind, layer)
            whole[kind] = whole.get(kind, 0) + work[layer]
        dearest = set(sorted(whole, key=lambda kind: (-whole[kind], kind))[: self.most])
        ms: dict[Kind, float] = {}
        for graph in self.models:
            # keep the graph's order, in which the layers were given
            own = {kind: node for kind, (g, node) in first.items() if g == graph}
            some = {kind: node for kind, node in own.items() if kind in dearest}
            times = self.timed(graph, list(some.values())) if some else {}
            ms |= {kind: times[node] for kind, node in some.items()}
            advance(1)
        measured = sum(work[first[kind]] for kind in ms)
        each = sum(ms.values()) / measured if measured else 0.0
        return [
            ms[kind_of[layer]] if kind_of[layer] in ms else self._predicted(each * work[layer])
            for layer in layers
        ]

    def _predicted(self, ms: float) -> float:
        return max(ms, self.least) if ms > 0 else ms

    def _work(self) -> dict[Layer, int]:
        """Return the multiplications of each layer in one image's trajectory."""
        return {
            (graph, node): count * self.calls[graph]
            for graph, model in self.models.items()
            for node, count in multiplications(model).items()
        }

    def _kinds(self) -> dict[Layer, Kind]:
        return {
            (graph, node): (graph, kind)
            for graph, model in self.models.items()
            for node, kind in kinds(model).items()
        }
