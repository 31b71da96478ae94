"""The path from a network's weights to the constants of its graphs: the layer and the factor of
each rounded weight, and the constants that depend on weights without being weights.
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
    """A rounded weight of a graph, which changes by `factor` (out, cin, 1, 1) times the change of
    its layer's own weight.
    """

    graph: str
    weight: str
    layer: str
    factor: Tensor


def rounded_weights(
    family: Family, config: Any, master: Mapping[str, Tensor], students: Mapping[str, Student]
) -> tuple[RoundedWeight, ...]:
    """Return all rounded weights with their layers and factors.

    Both are read from graphs of networks whose convolutions hold a constant: with 1 the graph shows
    the factor, and with the layer's number it shows the layer. EdgegenError for a weight that is
    not a multiple of one layer's weight.
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
                continue  # a norm multiplies the layer by 0, so that a pair would have no effect
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
    """Return the factors (out, cin, 1, 1) of after[i, j] = r[i] * c[j] * before[i, j].

    A kernel's factor is read where the kernel is largest. For a kernel of zeros it is estimated
    from the geometric means of the known factors in its row and column.
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
    """Return the constants of each graph by name."""
    graphs = site.plain(family, config, tensors).graphs()
    return {
        name: dict((*graph.module.named_parameters(), *graph.module.named_buffers()))
        for name, graph in graphs.items()
    }


@dataclass(frozen=True)
class Followers:
    """Constants that depend on weights without being weights, such as isc-gan's energies.

    factors: by graph and constant, the factor by which channel equalization multiplies it.
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
        """Find the constants that depend on the weights of these layers."""
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
        """Recompute the constants from a network's tensors, without gradients.

        These constants remove the length of a weight, which rounding does not depend on either.
        """
        now = graph_constants(self.family, self.config, tensors)
        for graph, factors in self.factors.items():
            for name, factor in factors.items():
                self.students[graph].values[name] = now[graph][name].detach() * factor
