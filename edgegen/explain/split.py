"""A trained generator cut in two at one layer, for one seed: features f at the cut, and images as a
function of them. (torch)

Everything beside the layer's feature maps is fixed at its values for this seed: noise, styles,
embeddings and earlier calls (docs/methods/regional-primitives.md, B.2.1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from torch import Tensor

from ..core.graph import Exportable, ExportGraph, torch_graphs
from ..core.latent import Latent
from ..core.noise import noise
from ..core.samplers import Sampler, stopped
from ..core.seeds import EXPLANATION_BASELINE
from ..core.tap import Cut, cuts
from ..errors import EdgegenError, UsageError

MIDDLE = "mid"
# number of the call, graph, inputs -> output
Answer = Callable[[int, str, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class CutLayer:
    """A layer at which one graph can be cut."""

    graph: str
    cut: Cut

    @property
    def name(self) -> str:
        return f"{self.graph}.{self.cut.name}"


def layers(graphs: Mapping[str, ExportGraph], only: str | None = None) -> list[CutLayer]:
    """Return all layers at which the generator's features can be decomposed, in the order of the
    graphs; only: name of the only graph to consider.
    """
    return [
        CutLayer(name, cut)
        for name, graph in torch_graphs(graphs).items()
        if only in (None, name)
        for cut in cuts(graph)
    ]


def layer(graphs: Mapping[str, ExportGraph], wanted: str) -> CutLayer:
    """Return a layer by its name, by a part of it that is unique, or by "mid".

    "mid" is the middle layer of the graph with the largest feature maps. UsageError for a name that
    means no layer or several.
    """
    graph, _, rest = wanted.partition(".")
    found = layers(graphs, graph if rest and graph in graphs else None)
    if wanted == MIDDLE and found:
        each = [[one for one in found if one.graph == name] for name in graphs]
        most = max(each, key=lambda some: max((one.cut.numbers for one in some), default=0))
        return most[len(most) // 2]
    fitting = [one for one in found if one.name == wanted] or [
        one for one in found if wanted in one.name
    ]
    if len(fitting) != 1:
        names = ", ".join(one.name for one in fitting or found)
        why = (
            f"means {len(fitting)} layers: {names}"
            if fitting
            else f"is no layer; there are: {names}"
        )
        raise UsageError("E-LAYER", f"{wanted!r} {why}", hint="edgegen layers SOURCE lists them")
    return fitting[0]


@dataclass(frozen=True)
class Split:
    """The features, baseline and spread (K,) of one seed, its image (c, h, w), and the function
    `images` that draws (b, c, h, w) from features (b, K).

    baseline: the mean features over many seeds; spread: their standard deviation, one value per
    channel, repeated over its cells.
    """

    maps: Mapping[str, tuple[int, int, int]]
    features: Tensor
    baseline: Tensor
    spread: Tensor
    image: Tensor
    images: Callable[[Tensor], Tensor] = field(repr=False)


class _Reached(Exception):
    """Stops sampling after the call of interest."""


class Way:
    """The generator with a cut at one layer and a sampler of `steps` steps, for splits of any seed
    with one common baseline.
    """

    def __init__(self, generator: Exportable, layer: CutLayer, steps: int) -> None:
        graphs = torch_graphs(generator.graphs())
        lacking = {spec.name for graph in graphs.values() for spec in graph.inputs} & {
            "hint",
            "vector",
        }
        if lacking:
            raise UsageError(
                "E-USAGE",
                f"this generator follows a photo ({', '.join(sorted(lacking))}), and explain draws "
                "from "
                "seeds alone",
            )
        self.latent, self.layer = generator.latent, layer
        self._sampler: Sampler = stopped(generator.sampler, steps)
        self._modules = {name: graph.loaded() for name, graph in graphs.items()}
        self._before, self._after = layer.cut.before(), layer.cut.after()
        made = self._record(EXPLANATION_BASELINE.first, None)[0]
        asked = [k for k, (name, _, _) in enumerate(made) if name == layer.graph]
        if not asked:
            raise UsageError(
                "E-LAYER", f"{layer.graph} does not run in the sampler's first {steps} steps"
            )
        self._pick = asked[-1]  # index of the last call of the layer's graph among all calls

    def baseline(self, seeds: int, batch: int = 64) -> tuple[Tensor, Tensor]:
        """Return the mean features and their spread (K,) over `seeds` seeds of balanced classes."""
        total = square = None
        shapes = list(self.layer.cut.maps.values())
        for start in range(0, seeds, batch):
            some = EXPLANATION_BASELINE.take(min(batch, seeds - start), start)
            flat = self._reached(some).double()
            total = flat.sum(0) + (0 if total is None else total)
            square = flat.square().sum(0) + (0 if square is None else square)
        assert total is not None and square is not None
        mean = total / seeds
        variance = (square / seeds - mean.square()).clamp(min=0)
        parts = torch.split(variance, [c * h * w for c, h, w in shapes])
        spread = [
            v.reshape(c, -1).mean(1, keepdim=True).sqrt().expand(c, h * w).flatten()
            for v, (c, h, w) in zip(parts, shapes, strict=True)
        ]
        return mean.float(), torch.cat(spread).float()

    def split(self, seed: int, label: int | None, baseline: tuple[Tensor, Tensor]) -> Split:
        """Return one seed's features and image, with a baseline from `baseline`."""
        made, image = self._record(seed, label)
        pick = self._pick
        with torch.no_grad():
            crossing = self._before(**made[pick][1])
        cut = self.layer.cut
        beside = dict(zip(cut.beside, crossing[len(cut.maps) :], strict=True))
        shapes = list(cut.maps.values())

        def images(features: Tensor) -> Tensor:
            b = len(features)
            parts = torch.split(features, [c * h * w for c, h, w in shapes], dim=1)
            given = {
                name: part.reshape(b, *shape)
                for (name, shape), part in zip(cut.maps.items(), parts, strict=True)
            }
            given |= {name: value.expand(b, *value.shape[1:]) for name, value in beside.items()}

            def answer(k: int, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
                if k < pick:
                    known = made[k][2]
                    return known.expand(b, *known.shape[1:])
                return self._after(**given) if k == pick else self._run(name, inputs)

            return self._sample([seed] * b, label, answer)

        return Split(cut.maps, _flat(crossing[: len(cut.maps)])[0], *baseline, image, images)

    def _record(
        self, seed: int, label: int | None
    ) -> tuple[list[tuple[str, Mapping[str, Tensor], Tensor]], Tensor]:
        """Return all calls for one seed, as graph, inputs and output, and its image (c, h, w)."""
        made: list[tuple[str, Mapping[str, Tensor], Tensor]] = []

        def record(k: int, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
            made.append((name, inputs, self._run(name, inputs)))
            return made[-1][2]

        with torch.no_grad():
            return made, self._sample([seed], label, record)[0]

    def _reached(self, seeds: Sequence[int]) -> Tensor:
        """Return the features (len(seeds), K) of these seeds."""
        found: list[Tensor] = []

        def answer(k: int, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
            if k == self._pick:
                found.append(_flat(self._before(**inputs)[: len(self.layer.cut.maps)]))
                raise _Reached
            return self._run(name, inputs)

        with torch.no_grad(), contextlib.suppress(_Reached):
            self._sample(seeds, None, answer)
        if not torch.isfinite(found[0]).all():
            raise EdgegenError(
                "E-NONFINITE", f"features at {self.layer.name} hold NaN or infinite values"
            )
        return found[0]

    def _run(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        return self._modules[name](**inputs)

    def _sample(self, seeds: Sequence[int], label: int | None, answer: Answer) -> Tensor:
        return sample(self.latent, self._sampler, self._modules, seeds, label, answer)


def sample(
    latent: Latent,
    sampler: Sampler,
    graphs: Iterable[str],
    seeds: Sequence[int],
    label: int | None,
    answer: Answer,
) -> Tensor:
    """Run a sampler with `answer` in place of the graphs, and return the images
    (len(seeds), c, h, w); gradients pass through.
    """
    numbers = count()

    def of(name: str) -> Callable[..., Tensor]:
        return lambda **inputs: answer(next(numbers), name, inputs)

    def moved(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))

    condition = {name: moved(value) for name, value in latent.condition(seeds, label).items()}
    images: Tensor = sampler(
        {name: of(name) for name in graphs},
        moved(latent.start(seeds)),
        condition,
        lambda stream: moved(noise(latent.noise, seeds, stream)),
    )
    return images


def _flat(maps: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in maps], dim=1)
