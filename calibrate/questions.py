"""Which plans are looked at, and in which order: the one next of which most is expected, as long as
an answer can be paid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Of a plan's cost: what another has to save, or the noise of timing has decided.
TIE = 0.015
SURE = 0.9  # probability that a plan is good which damages less than one that is
WIDER = 4.0  # times the damage of all plans, what may be good or bad before anything was asked
TINY = 1e-30  # damage of a plan that damages nothing

Place = tuple[int, int]  # ladder, rung


@dataclass(frozen=True)
class Rung:
    """A plan that may be asked about: what a trajectory costs under it, and what it damages."""

    cost: float
    damage: float


@dataclass(frozen=True)
class Unasked:
    """A plan that nobody looked at, and why."""

    place: Place
    why: str


@dataclass(frozen=True)
class Found:
    """The plan to take, None where none is known to be good; and what was not asked."""

    best: Place | None
    unasked: tuple[Unasked, ...]


@dataclass
class Answers:
    """What is known about ladders whose rungs get better one after the other.

    otherwise: what is paid where none of them is good.
    """

    ladders: Sequence[Sequence[Rung]]
    otherwise: float
    good: list[Place] = field(default_factory=list)
    bad: list[Place] = field(default_factory=list)

    def rung(self, place: Place) -> Rung:
        return self.ladders[place[0]][place[1]]

    @property
    def cheapest(self) -> float:
        """What is paid as far as is known."""
        return min([self.otherwise, *(self.rung(place).cost for place in self.good)])

    @property
    def best(self) -> Place | None:
        """Of the good ones that cost no more than a tie above the cheapest, the one that damages
        least.
        """
        near = self.cheapest / (1 - TIE)
        tied = [place for place in self.good if self.rung(place).cost <= near]
        return min(
            tied, key=lambda place: (self.rung(place).damage, self.rung(place).cost), default=None
        )

    def why_not(self, place: Place) -> str:
        """Why asking about this plan would be in vain; "" where it would not be."""
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
        """What is worth asking."""
        return [place for place in self.unasked() if not self.why_not(place)]

    def gain(self, place: Place) -> float:
        """What asking about this plan is expected to save."""
        return self.chance(place) * (self.cheapest - self.rung(place).cost)

    def chance(self, place: Place) -> float:
        """Probability that a plan is good: it falls with the logarithm of the damage, from the
        worst that is good to the best that is not. Of its own ladder, where one is known there:
        what damages add up to is nearly the same in another, not quite.
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
    """The good rung that costs least, to within a tie; the ladders' rungs get better one after the
    other.

    good(ladder, rung) answers. price says what the next answer will take, about the same for all,
    and left what there is to spend. The same answers and prices ask the same questions.
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
