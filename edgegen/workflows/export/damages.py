"""What each layer damages alone in INT8: along whole trajectories, or where these would take too
long, predicted from errors of a few calls and checked on a few whole trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...calibrate.predict import LEAST_RANK, predicted, rank_correlation, to_check
from ...core.answer_cache import Notes
from ...core.side_by_side import over_workers
from .bill import Bill
from .measurements import Convolution, Measurements

STEP = "damage of each layer"  # as a bill says it
ByLast = list[float]  # a figure for each number of last steps in FP32
Measure = Callable[[Convolution, Sequence[int]], ByLast]


@dataclass(frozen=True)
class LayerDamages:
    """Of one search: what it measures with, what it noted, and its bill."""

    measure: Measurements
    notes: Notes
    bill: Bill
    last_steps: Sequence[int]

    def of(self, counts: Mapping[Convolution, int]) -> dict[Convolution, ByLast]:
        """By layer, of these multiplications an image each."""
        every = list(counts)
        if self._whole_work(counts) <= self.measure.full.settings.whole_work:
            self.bill.damages = "each along whole trajectories"
            return self._along_trajectories(every)
        errors = self._each("error", every, self.measure.errors)
        own = {graph: [one for one in every if one[0] == graph] for graph, _ in every}
        few = {
            graph: [layers[k] for k in to_check([errors[one][0] for one in layers])]
            for graph, layers in own.items()
        }
        known = self._along_trajectories([one for layers in few.values() for one in layers])
        found, said = dict[Convolution, ByLast](), []
        for graph, layers in own.items():
            rank = min(
                self._rank(k, few[graph], errors, known) for k in range(len(self.last_steps))
            )
            if rank < LEAST_RANK:
                found |= self._along_trajectories(layers)
                said.append(f"{graph}: each, since errors rank them only to {rank:.2f} as those do")
            else:
                found |= self._filled(layers, errors, known)
                said.append(
                    f"{graph}: {len(few[graph])} of {len(layers)}, whose errors rank them to "
                    f"{rank:.2f} as those do, the others predicted from their errors"
                )
        self.bill.damages = f"along whole trajectories, {'; '.join(said)}"
        return found

    @staticmethod
    def _rank(
        k: int,
        layers: Sequence[Convolution],
        errors: Mapping[Convolution, ByLast],
        known: Mapping[Convolution, ByLast],
    ) -> float:
        return rank_correlation(
            [errors[one][k] for one in layers], [known[one][k] for one in layers]
        )

    def _filled(
        self,
        layers: Sequence[Convolution],
        errors: Mapping[Convolution, ByLast],
        known: Mapping[Convolution, ByLast],
    ) -> dict[Convolution, ByLast]:
        """Damages of a graph's layers, predicted where they are not known."""
        by_last = [
            predicted(
                [errors[one][k] for one in layers],
                {place: known[one][k] for place, one in enumerate(layers) if one in known},
            )
            for k in range(len(self.last_steps))
        ]
        return {one: [of[place] for of in by_last] for place, one in enumerate(layers)}

    def _whole_work(self, counts: Mapping[Convolution, int]) -> float:
        """Multiplications of every layer's whole trajectories."""
        full = self.measure.full
        trajectory = sum(len(full.recorded[graph]) * count for (graph, _), count in counts.items())
        return float(len(counts) * full.settings.images_alone * trajectory)

    def _along_trajectories(self, layers: Sequence[Convolution]) -> dict[Convolution, ByLast]:
        return self._each("damage", layers, self.measure.damages)

    def _each(
        self, what: str, layers: Sequence[Convolution], measure: Measure
    ) -> dict[Convolution, ByLast]:
        """What is measured of each layer alone; several at once."""
        full, last_steps = self.measure.full, self.last_steps

        def asked(layer: Convolution) -> str:
            return f"{what} {list(last_steps)} {'/'.join(layer)}"

        def answer(layer: Convolution) -> ByLast:
            known = self.notes.recall(asked(layer), lambda: measure(layer, last_steps))
            return [float(figure) for figure in known]

        if not all(self.notes.knows(asked(layer)) for layer in layers):
            full.prepare()
        label = f"measuring the {what} of each layer on {self.measure.target.name}"
        found = dict[Convolution, ByLast]()
        with full.context.listen.progress(label, len(layers)) as advance:
            answers = over_workers(answer, layers, full.at_once)
            for layer, figures in zip(layers, answers, strict=True):
                found[layer] = figures
                # what several take at once is shorter by so much
                self.bill.add(STEP, self.notes.seconds(asked(layer)) / full.at_once)
                advance(1)
        return found
