"""Keep the layers in full precision whose rounding damages the chosen regions most (edgegen export
--protect-regions).
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

SEEDS = 16  # images that show which layers matter
# share of the regions' squared error whose layers stay in full precision
KEPT = 0.75


@dataclass(frozen=True)
class Protect:
    """Hold the regions as a user writes them: "2,5" of a grid such as "3x3" or of a mask PNG."""

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
        """Return the plan with rules for the kept layers in front, and what the manifest says of
        them.

        A layer is kept if it matters on any of the runtimes.
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
        """Return the masks of all regions and the numbers of the chosen ones.

        Raises UsageError for regions that these images do not have.
        """
        from ...core.graph import torch_graphs
        from ...explain.regions import regions, set_of

        # the damage is attributed to torch layers; this refuses a generator without them
        torch_graphs(source.generator.graphs())
        parts = regions(self.regions, *source.generator.image_shape[1:])
        chosen = set_of(self.chosen, parts.count)
        return parts.masks, [r for r in range(parts.count) if chosen >> r & 1]


def first_layers(parts: Mapping[str, float], cost: Mapping[str, float]) -> list[str]:
    """Return the layers with the most damage for each multiplication first, until together they
    have KEPT of all damage.
    """
    order = sorted(parts, key=lambda path: (-parts[path] / cost[path], path))
    total, taken, found = sum(parts.values()), 0.0, []
    for path in order:
        if taken >= KEPT * total:
            break
        found.append(path)
        taken += parts[path]
    return found
