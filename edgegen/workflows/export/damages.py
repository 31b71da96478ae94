"""Measure how much each layer alone damages images in INT8. Whole trajectories are measured; where
they would take too long, the damage is predicted from the errors of a few calls and checked on a
few whole trajectories.

In a generator so large that there is no time for each layer, runs of neighbours are measured
together, and each layer gets the share of the damage that it has of their multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...calibrate.predict import LEAST_RANK, predicted, rank_correlation, to_check
from ...core.answer_cache import Notes
from ...core.side_by_side import over_workers
from .bill import Bill
from .measurements import Convolution, Measurements

STEP = "damage of each layer"  # the name of this step in a bill
ByLast = list[float]  # a figure for each number of last steps in FP32
Unit = tuple[Convolution, ...]  # layers of one graph that run in INT8 together
Measure = Callable[[Unit, Sequence[int]], ByLast]


def units_of(counts: Mapping[Convolution, int], groups: int | None) -> list[Unit]:
    """Group the layers (`counts` has their multiplications) in the order of their graphs.

    Each is a unit by itself if `groups` is None or enough for all. Otherwise about `groups` runs of
    neighbours in one graph multiply about equally, with at least one run for each graph.
    """
    if groups is None or groups >= len(counts):
        return [(layer,) for layer in counts]
    each = sum(counts.values()) / groups
    found: list[list[Convolution]] = []
    graph, room = "", 0.0
    for layer, count in counts.items():
        if layer[0] != graph or room <= 0:
            found.append([])
            graph, room = layer[0], (room if layer[0] == graph else 0.0) + each
        found[-1].append(layer)
        room -= count
    return [tuple(unit) for unit in found]


@dataclass(frozen=True)
class LayerDamages:
    """Find the damages of the layers in one search, with its measurements, notes and bill."""

    measure: Measurements
    notes: Notes
    bill: Bill
    last_steps: Sequence[int]

    def of(self, counts: Mapping[Convolution, int]) -> dict[Convolution, ByLast]:
        """Return the damages of each layer; `counts` has the layer's multiplications in
        one call.
        """
        settings = self.measure.full.settings
        units = units_of(counts, settings.groups)
        if self._whole_work(units, counts) <= settings.whole_work:
            self.bill.damages = "each along whole trajectories"
            return _shared(self._along_trajectories(units), counts)
        errors = self._each("error", units, self.measure.errors)
        own = {unit[0][0]: [one for one in units if one[0][0] == unit[0][0]] for unit in units}
        few = {
            graph: [
                of[k] for k in to_check([errors[one][0] for one in of], settings.layers_checked)
            ]
            for graph, of in own.items()
        }
        before = self.bill.spent
        known = self._along_trajectories([one for of in few.values() for one in of])
        each = (self.bill.spent - before) / max(len(known), 1)
        found, said = dict[Unit, ByLast](), []
        for graph, of in own.items():
            rank = min(
                self._rank(k, few[graph], errors, known) for k in range(len(self.last_steps))
            )
            if rank >= LEAST_RANK:
                found |= self._filled(of, errors, known)
                said.append(
                    f"{graph}: {len(few[graph])} of {len(of)}, whose errors rank them to "
                    f"{rank:.2f} as those do, the others predicted from their errors"
                )
            elif len(of) * each <= self.bill.left / 2:
                found |= self._along_trajectories(of)
                said.append(f"{graph}: each, since errors rank them only to {rank:.2f} as those do")
            else:
                found |= self._filled(of, errors, known)
                said.append(
                    f"{graph}: {len(few[graph])} of {len(of)}, whose errors rank them only to "
                    f"{rank:.2f} as those do; there is no time to measure the others"
                )
        together = len(counts) - len(units)
        grouped = f"{len(counts)} layers in {len(units)} runs of neighbours; " if together else ""
        self.bill.damages = f"{grouped}along whole trajectories, {'; '.join(said)}"
        return _shared(found, counts)

    @staticmethod
    def _rank(
        k: int,
        units: Sequence[Unit],
        errors: Mapping[Unit, ByLast],
        known: Mapping[Unit, ByLast],
    ) -> float:
        return rank_correlation([errors[one][k] for one in units], [known[one][k] for one in units])

    def _filled(
        self,
        units: Sequence[Unit],
        errors: Mapping[Unit, ByLast],
        known: Mapping[Unit, ByLast],
    ) -> dict[Unit, ByLast]:
        """Return the damages of a graph's units, predicted where they were not measured."""
        by_last = [
            predicted(
                [errors[one][k] for one in units],
                {place: known[one][k] for place, one in enumerate(units) if one in known},
            )
            for k in range(len(self.last_steps))
        ]
        return {one: [of[place] for of in by_last] for place, one in enumerate(units)}

    def _whole_work(self, units: Sequence[Unit], counts: Mapping[Convolution, int]) -> float:
        """Return the multiplications that measuring every unit along whole trajectories takes."""
        full = self.measure.full
        trajectory = sum(len(full.recorded[graph]) * count for (graph, _), count in counts.items())
        return float(len(units) * full.settings.images_alone * trajectory)

    def _along_trajectories(self, units: Sequence[Unit]) -> dict[Unit, ByLast]:
        return self._each("damage", units, self.measure.damages)

    def _each(self, what: str, units: Sequence[Unit], measure: Measure) -> dict[Unit, ByLast]:
        """Return what `measure` finds for each unit; several are measured at once."""
        full, last_steps = self.measure.full, self.last_steps

        def asked(unit: Unit) -> str:
            ends = dict.fromkeys(("/".join(unit[0]), "/".join(unit[-1])))
            return f"{what} {list(last_steps)} {' to '.join(ends)}"

        def answer(unit: Unit) -> ByLast:
            known = self.notes.recall(asked(unit), lambda: measure(unit, last_steps))
            return [float(figure) for figure in known]

        if not all(self.notes.knows(asked(unit)) for unit in units):
            full.prepare()
        label = f"measuring the {what} of each layer on {self.measure.target.name}"
        found = dict[Unit, ByLast]()
        with full.context.listen.progress(label, len(units)) as advance:
            answers = over_workers(answer, units, full.at_once)
            for unit, figures in zip(units, answers, strict=True):
                found[unit] = figures
                # measurements that run at the same time share the clock
                self.bill.add(STEP, self.notes.seconds(asked(unit)) / full.at_once)
                advance(1)
        return found


def _shared(
    found: Mapping[Unit, ByLast], counts: Mapping[Convolution, int]
) -> dict[Convolution, ByLast]:
    """Return each layer's damage: its unit's damage times the layer's share of multiplications."""
    return {
        layer: [figure * counts[layer] / sum(counts[one] for one in unit) for figure in figures]
        for unit, figures in found.items()
        for layer in unit
    }
