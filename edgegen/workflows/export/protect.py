"""edgegen export --protect-regions: the layers whose rounding damages some regions most stay in
full precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...calibrate.choose import multiplications
from ...core.plan import Plan, Precision
from ...core.runtime import Runtime
from ...core.seeds import REGION_PROTECTION
from ..generators import LoadedGenerator
from .quantized import Quantized

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..context import Context

SEEDS = 16  # images that say which layers matter
# of the regions' squared error: the part of the layers that stay in full precision
KEPT = 0.75


@dataclass(frozen=True)
class Protect:
    """Regions as people write them, "2,5" of a grid such as "3x3" or of a mask PNG."""

    chosen: str
    regions: str

    def __call__(
        self,
        source: LoadedGenerator,
        even: Mapping[str, ModelProto],
        plan: Plan,
        targets: Sequence[Runtime],
        context: Context,
    ) -> tuple[Plan, dict[str, Any]]:
        """The plan with rules in front, and what the manifest says of them; layers that matter to
        any of the runtimes count.
        """
        masks, numbers = self.numbers(source)
        costs = {k: multiplications(m) for k, m in even.items()}
        whole = sum(sum(cost.values()) for cost in costs.values())
        kept: dict[str, float] = {}
        for target in targets:
            quantized = Quantized(source, even, plan, target, context.threads, context.listen)
            layers, found = quantized.attributed(masks, REGION_PROTECTION.take(SEEDS), None)
            parts = found.parts[..., numbers].sum((1, 2, 3)).clip(0)
            share = {one.path: costs[one.graph][one.name] / whole for one in layers}
            damage = {one.path: float(part) for one, part in zip(layers, parts, strict=True)}
            kept |= {path: share[path] for path in first_layers(damage, share)}
        rules: tuple[tuple[str, Precision], ...] = tuple((path, "fp32") for path in sorted(kept))
        about = {
            "regions": self.chosen,
            "of": self.regions,
            "layers": sorted(kept),
            "multiplications": sum(kept.values()),
        }
        return replace(plan, rules=(*rules, *plan.rules)), about

    def numbers(self, source: LoadedGenerator) -> tuple[Any, list[int]]:
        """Masks of all regions, and which of them are chosen; UsageError for what these images do
        not have.
        """
        from ...core.graph import torch_graphs
        from ...explain.regions import regions, set_of

        torch_graphs(source.generator.graphs())  # whose layers these are
        parts = regions(self.regions, *source.generator.image_shape[1:])
        chosen = set_of(self.chosen, parts.count)
        return parts.masks, [r for r in range(parts.count) if chosen >> r & 1]


def first_layers(parts: Mapping[str, float], cost: Mapping[str, float]) -> list[str]:
    """Layers with the most damage a multiplication first, until they have KEPT of all damage
    together.
    """
    order = sorted(parts, key=lambda path: (-parts[path] / cost[path], path))
    total, taken, found = sum(parts.values()), 0.0, []
    for path in order:
        if taken >= KEPT * total:
            break
        found.append(path)
        taken += parts[path]
    return found
