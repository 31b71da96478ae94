"""Attribution of INT8 damage: how much of each region's squared error comes from which layer at
which timestep. (torch)

The error of a rounded image is, to first order, a sum over all roundings: d = sum of J_k e_k, where
e_k is what rounding k adds at its place, and J_k carries that to the pixels. So a region's squared
error is |d|^2 = sum of <d, J_k e_k>. J_k e_k is the slope of the image along rounding k's gate, so
one backward pass per region gives the parts of all layers at all timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.graph import Exportable
from .gates import Gated
from .lattice import Floats
from .split import sample

BATCH = 4  # images whose whole sampling is kept in memory for the backward passes
COLUMNS = 10  # most timesteps, or groups of them, that are distinguished


@dataclass(frozen=True)
class QuantizedLayer:
    """An int8 layer; places: indices of the graph's gates that close when this layer alone is put
    back to full precision.
    """

    graph: str
    name: str
    places: tuple[int, ...]

    @property
    def path(self) -> str:
        """The layer's name in a plan's rules."""
        return f"{self.graph}/{self.name}"


@dataclass(frozen=True)
class Attribution:
    """The parts (layers, times, seeds, regions) of the squared errors `whole` (seeds, regions),
    summed over pixels, with torch's rounding.
    """

    times: tuple[str, ...]
    parts: Floats
    whole: Floats


def attribute(
    made: Exportable,
    gated: Mapping[str, Gated],
    layers: Sequence[QuantizedLayer],
    masks: np.ndarray,
    seeds: Sequence[int],
    label: int | None,
    advance: Callable[[int], None],
) -> Attribution:
    """Attribute the squared error of these seeds' images to layers and timesteps.

    masks: (regions, h, w) bool; advance: called with the number of seeds done.
    """
    found: list[tuple[Floats, Floats]] = []
    names: tuple[str, ...] = ()
    pixels = torch.from_numpy(masks)
    for start in range(0, len(seeds), BATCH):
        some = seeds[start : start + BATCH]
        names, parts, whole = _batch(made, gated, layers, pixels, some, label)
        found.append((parts, whole))
        advance(len(some))
    return Attribution(
        names,
        np.concatenate([parts for parts, _ in found], 2),
        np.concatenate([whole for _, whole in found]),
    )


def _batch(
    made: Exportable,
    gated: Mapping[str, Gated],
    layers: Sequence[QuantizedLayer],
    masks: Tensor,
    seeds: Sequence[int],
    label: int | None,
) -> tuple[tuple[str, ...], Floats, Floats]:
    calls: list[tuple[str, float | None, Tensor]] = []  # graph, timestep, gates

    def exact(k: int, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        return gated[name](torch.zeros(len(seeds), len(gated[name].places)), **inputs)

    def rounded(k: int, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        gates = torch.ones(len(seeds), len(gated[name].places), requires_grad=True)
        calls.append((name, float(inputs["t"][0].detach()) if "t" in inputs else None, gates))
        return gated[name](gates, **inputs)

    with torch.no_grad():
        wanted = sample(made.latent, made.sampler, gated, seeds, label, exact)
    images = sample(made.latent, made.sampler, gated, seeds, label, rounded)
    apart = (images - wanted).detach()
    whole = torch.einsum("bchw,rhw->br", apart.square(), masks.to(apart.dtype)).numpy()
    columns, names = _columns([time for _, time, _ in calls])
    parts = np.zeros((len(layers), len(names), len(seeds), len(masks)))
    for r, mask in enumerate(masks):
        slopes = torch.autograd.grad(
            (images * apart * mask).sum(),
            [gates for *_, gates in calls],
            retain_graph=True,
            allow_unused=True,
        )
        for (graph, _, _), column, slope in zip(calls, columns, slopes, strict=True):
            for k, layer in enumerate(layers):
                if layer.graph == graph and slope is not None:
                    parts[k, column, :, r] += slope[:, list(layer.places)].sum(1).double().numpy()
    return names, parts, whole.astype(np.float64)


def _columns(times: Sequence[float | None]) -> tuple[list[int], tuple[str, ...]]:
    """Return the column of each call and the names of the columns.

    Timesteps are in the order of the calls, and calls without a timestep come last.
    """
    known = list(dict.fromkeys(t for t in times if t is not None))
    groups = [
        part.tolist()
        for part in np.array_split(np.array(known, np.float64), min(len(known), COLUMNS) or 1)
        if len(part)
    ]
    names = [
        f"t {part[0]:.9g}" if len(part) == 1 else f"t {part[0]:.9g} to {part[-1]:.9g}"
        for part in groups
    ]
    place = {t: k for k, part in enumerate(groups) for t in part}
    untimed = [] if None not in times else ["untimed"]
    return [len(groups) if t is None else place[t] for t in times], (*names, *untimed)
