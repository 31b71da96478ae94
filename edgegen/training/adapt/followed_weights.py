"""From a network's own weights to the constants of its graphs: which layer a rounded weight comes
from, what it is multiplied by on the way, and which constants change with weights without being
one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import EdgegenError
from ...families import Family
from . import site
from .student import Student


@dataclass(frozen=True)
class RoundedWeight:
    """A rounded weight of a graph: it moves by `factor` (out, cin, 1, 1) times what its layer's own
    weight moves by.
    """

    graph: str
    weight: str
    layer: str
    factor: Tensor


def rounded_weights(
    family: Family, config: Any, master: Mapping[str, Tensor], students: Mapping[str, Student]
) -> tuple[RoundedWeight, ...]:
    """Every rounded weight with its layer and factor.

    Both are read off graphs of networks whose convolutions hold one number: 1 shows the factor, the
    layer's own number the layer. EdgegenError for a weight that is no multiple of one layer's.
    """
    layers = [
        name
        for name, module in family.build(config).networks.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    weights = [f"{layer}.weight" for layer in layers]
    ones = {name: torch.ones_like(master[name]) for name in weights}
    numbers = {name: ones[name] * number for number, name in enumerate(weights, 1)}
    of_ones, of_numbers, own = (
        graph_constants(family, config, {**master, **filled}) for filled in (ones, numbers, {})
    )
    rounded = []
    for graph, student in students.items():
        for weight in student.weights:
            factor, number = of_ones[graph][weight], of_numbers[graph][weight]
            largest = factor.abs().argmax()
            if not factor.flatten()[largest]:
                continue  # a norm has silenced the layer: no pair could be heard
            layer = layers[round(float(number.flatten()[largest] / factor.flatten()[largest])) - 1]
            wanted, before = factor * master[f"{layer}.weight"], own[graph][weight]
            if wanted.shape != before.shape or not torch.allclose(
                wanted, before, rtol=1e-4, atol=1e-6
            ):
                raise EdgegenError(
                    "E-RECOVER", f"{graph}: {weight} is no multiple of one layer's weight"
                )
            even = _scaling(before, student.values[weight])
            rounded.append(RoundedWeight(graph, weight, layer, factor[:, :, :1, :1] * even))
    return tuple(rounded)


def _scaling(before: Tensor, after: Tensor) -> Tensor:
    """(out, cin, 1, 1): the factors r[i] * c[j] of after[i, j] = r[i] * c[j] * before[i, j].

    A kernel's factor is read where the kernel is largest. A kernel of zeros has none: its r[i] and
    c[j] are those of its row and its column, geometric means of the factors that are known.
    """
    largest = before.flatten(2).abs().argmax(2, keepdim=True)
    numerator = after.flatten(2).double().gather(2, largest)[..., 0]
    denominator = before.flatten(2).double().gather(2, largest)[..., 0]
    logarithm = (numerator / denominator).abs().log()
    known = logarithm.isfinite()
    logarithm = logarithm.where(known, torch.nan)
    row, column = logarithm.nanmean(1, keepdim=True), logarithm.nanmean(0, keepdim=True)
    estimated = row + column - logarithm.nanmean()
    size = torch.where(known, logarithm, estimated).exp().nan_to_num(1.0)
    sign = torch.where(known, (numerator * denominator).sign(), 1)
    return (sign * size)[..., None, None].float()


def graph_constants(
    family: Family, config: Any, tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """graph -> its constants by name."""
    graphs = site.plain(family, config, tensors).graphs()
    return {
        name: dict((*graph.module.named_parameters(), *graph.module.named_buffers()))
        for name, graph in graphs.items()
    }


@dataclass(frozen=True)
class Followers:
    """Constants that change with weights without being one, such as isc-gan's energies: graph ->
    constant -> what evening channels multiplies it by.
    """

    family: Family
    config: Any
    students: Mapping[str, Student]
    factors: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(
        cls,
        family: Family,
        config: Any,
        master: Mapping[str, Tensor],
        layers: Collection[str],
        students: Mapping[str, Student],
    ) -> Followers:
        """Those that follow the weights of these layers."""
        shaken = {f"{layer}.weight": master[f"{layer}.weight"] * 1.1 for layer in layers}
        before = graph_constants(family, config, master)
        after = graph_constants(family, config, {**master, **shaken})
        factors = {
            graph: {
                name: (student.values[name] / constant).nan_to_num(1.0)
                for name, constant in before[graph].items()
                if name not in student.weights and not torch.equal(constant, after[graph][name])
            }
            for graph, student in students.items()
        }
        return cls(family, config, students, {graph: own for graph, own in factors.items() if own})

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute them anew from a network's tensors.

        No gradient passes this way: what follows a weight here takes out its length, which rounding
        does not see either.
        """
        now = graph_constants(self.family, self.config, tensors)
        for graph, factors in self.factors.items():
            for name, factor in factors.items():
                self.students[graph].values[name] = now[graph][name].detach() * factor
