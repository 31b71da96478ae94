"""Decide which plans are looked at, and in which order: next is the one with the largest expected
saving, as long as there is time for the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Share of a plan's cost that another must save; below it the noise of timing would decide.
TIE = 0.015
SURE = 0.9  # probability that a plan is good which damages less than a good one
WIDER = 4.0  # how far beyond the damage of all plans the limit may lie before anything was asked
TINY = 1e-30  # damage of a plan that damages nothing

Place = tuple[int, int]  # ladder, rung


@dataclass(frozen=True)
class Rung:
    """Hold a plan that may be asked about: the cost of a trajectory under it, and its damage."""

    cost: float
    damage: float


@dataclass(frozen=True)
class Unasked:
    """Hold a plan that was not looked at, and why."""

    place: Place
    why: str


@dataclass(frozen=True)
class Found:
    """Hold the plan to take (None if none is known to be good), and the plans that were not asked
    about.
    """

    best: Place | None
    unasked: tuple[Unasked, ...]


@dataclass
class Answers:
    """Hold what is known about ladders whose rungs get better one after the other; `otherwise` is
    the cost if none of them is good.
    """

    ladders: Sequence[Sequence[Rung]]
    otherwise: float
    good: list[Place] = field(default_factory=list)
    bad: list[Place] = field(default_factory=list)

    def rung(self, place: Place) -> Rung:
        return self.ladders[place[0]][place[1]]

    @property
    def cheapest(self) -> float:
        """Return the cost as far as it is known."""
        return min([self.otherwise, *(self.rung(place).cost for place in self.good)])

    @property
    def best(self) -> Place | None:
        """Return the good plan that damages least, among those that cost at most a tie above the
        cheapest.
        """
        near = self.cheapest / (1 - TIE)
        tied = [place for place in self.good if self.rung(place).cost <= near]
        return min(
            tied, key=lambda place: (self.rung(place).damage, self.rung(place).cost), default=None
        )

    def why_not(self, place: Place) -> str:
        """Return why a question about this plan would be useless, or "" if it would not."""
        ladder, rung = place
        if any(ladder == other and rung <= worse for other, worse in self.bad):
            return "it keeps less in FP32 than one that is not good enough"
        if self.rung(place).cost > self.cheapest:
            return "it is slower than the one that ships"
        if self.rung(place).cost > self.cheapest * (1 - TIE):
            return f"it is less than {TIE:.1%} faster than the one that ships"
        return ""

    def unasked(self) -> list[Place]:
        return [place for place in self._all() if place not in {*self.good, *self.bad}]

    def open(self) -> list[Place]:
        """Return the plans that are worth a question."""
        return [place for place in self.unasked() if not self.why_not(place)]

    def gain(self, place: Place) -> float:
        """Return what a question about this plan is expected to save."""
        return self.chance(place) * (self.cheapest - self.rung(place).cost)

    def chance(self, place: Place) -> float:
        """Return the probability that a plan is good: it falls with the logarithm of the damage,
        from the worst that is good to the best that is not.

        A bad plan of the same ladder is preferred if one is known: the sum of damages means nearly
        the same in another ladder, but not quite.
        """
        damages = [self.rung(other).damage for other in self._all()]
        damage = self.rung(place).damage
        own = [self.rung(other).damage for other in self.bad if other[0] == place[0]]
        worse = own or [self.rung(other).damage for other in self.bad]
        high = min(worse, default=max(damages) * WIDER)
        better = [self.rung(other).damage for other in self.good]
        low = max((d for d in better if d < high), default=min(damages) / WIDER)
        if damage >= high:
            return 1 - SURE
        low, high, damage = (math.log(max(value, TINY)) for value in (low, high, damage))
        share = min((high - damage) / (high - low), 1.0) if high > low else 1.0
        return 1 - SURE + (2 * SURE - 1) * share

    def _all(self) -> list[Place]:
        return [(k, rung) for k, ladder in enumerate(self.ladders) for rung in range(len(ladder))]


def fastest_good(
    ladders: Sequence[Sequence[Rung]],
    otherwise: float,
    good: Callable[[int, int], bool],
    price: Callable[[], float] = lambda: 0.0,
    left: Callable[[], float] = lambda: math.inf,
) -> Found:
    """Find the good rung that costs least, to within a tie; the ladders' rungs get better one after
    the other.

    good(ladder, rung) answers. `price` returns the seconds that the next answer will take, about
    the same for all, and `left` the seconds that may be spent. The same answers and prices lead to
    the same questions.
    """
    answers, too_dear = Answers(ladders, otherwise), ""
    while candidates := answers.open():
        if (needed := price()) > (has := left()):
            too_dear = f"{needed:.0f} s would be needed and {max(has, 0):.0f} s are left"
            break
        place = max(candidates, key=lambda p: (answers.gain(p), -answers.rung(p).damage))
        (answers.good if good(*place) else answers.bad).append(place)
    return Found(
        answers.best,
        tuple(Unasked(place, answers.why_not(place) or too_dear) for place in answers.unasked()),
    )
