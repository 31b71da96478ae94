"""Which plans are looked at: the fastest good one is found, and not more is asked than it takes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.calibrate.questions import TIE, Answers, Found, Rung, fastest_good

Ladders = list[list[Rung]]


def ladder(costs: list[float], damages: list[float]) -> list[Rung]:
    """Rungs get better as they cost more."""
    return [
        Rung(cost, damage)
        for cost, damage in zip(sorted(costs), sorted(damages, reverse=True), strict=True)
    ]


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Ladders, list[int]]:
    """Ladders, and the first good rung of each."""
    found, first = [], []
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 15))
        numbers = st.lists(st.floats(0.01, 1), min_size=count, max_size=count)
        found.append(ladder(draw(numbers), draw(numbers)))
        first.append(draw(st.integers(0, count)))
    return found, first


class Asked:
    """Answers as told, and remembers what it was asked."""

    def __init__(self, first: list[int]) -> None:
        self.first, self.places = first, list[tuple[int, int]]()

    def __call__(self, place: int, rung: int) -> bool:
        self.places.append((place, rung))
        return rung >= self.first[place]


@given(ladders())
def test_the_cheapest_good_rung_is_found_to_within_a_tie(given: tuple[Ladders, list[int]]) -> None:
    rungs, first = given
    good = Asked(first)
    found = fastest_good(rungs, 2.0, good)
    cheapest = min(
        (one.cost for few, best in zip(rungs, first, strict=True) for one in few[best:]),
        default=2.0,
    )
    if found.best is None:
        assert cheapest == 2.0
    else:
        place, rung = found.best
        assert rung >= first[place] and found.best in good.places, "it was seen to be good"
        # a tie is left unasked, and a tie above what is cheapest may damage less
        assert rungs[place][rung].cost <= cheapest / (1 - TIE) ** 2 + 1e-12
    assert len(set(good.places)) == len(good.places)
    every = {(k, rung) for k, few in enumerate(rungs) for rung in range(len(few))}
    assert {one.place for one in found.unasked} == every - set(good.places)
    assert all(one.why for one in found.unasked), "each with its reason"


@given(st.integers(1, 15), st.data())
def test_no_more_is_asked_than_there_is_to_win(count: int, data: st.DataObject) -> None:
    """One ladder of even damages takes about as many questions as halving it."""
    few = ladder([0.1 + 0.05 * k for k in range(count)], [4.0**-k for k in range(count)])
    good = Asked([data.draw(st.integers(0, count))])
    fastest_good([few], 2.0, good)
    assert len(good.places) <= count.bit_length() + 3


def test_a_plan_that_is_hardly_faster_is_not_asked_about() -> None:
    """Timing's noise is larger than what it would save."""
    good = Asked([0])
    found = fastest_good([ladder([0.99, 1.0], [2.0, 1.0])], 1.001, good)
    assert found == Found(None, found.unasked) and not good.places
    assert "less than 1.5% faster" in found.unasked[0].why


def test_of_good_plans_that_cost_the_same_the_one_that_damages_least_is_taken() -> None:
    answers = Answers([[Rung(1.0, 5.0)], [Rung(1.01, 3.0)], [Rung(1.2, 0.1)]], 2.0)
    answers.good += [(0, 0), (1, 0), (2, 0)]
    assert answers.best == (1, 0)


def test_the_first_question_is_not_about_the_safest_nor_the_boldest() -> None:
    """The boldest is hardly good, and the safest saves hardly anything."""
    few = ladder([0.5 + 0.03 * k for k in range(15)], [10.0 ** (-k / 3) for k in range(15)])
    good = Asked([0])
    fastest_good([few], 1.0, good)
    assert 0 < good.places[0][1] < 8 and good.places[-1] == (0, 0)


def test_what_one_ladder_answered_counts_in_the_other() -> None:
    """A damage that was good is expected to be good in a ladder where nothing was asked."""
    answers = Answers([[Rung(1.0, 8.0), Rung(1.5, 1.0)], [Rung(0.8, 1.1), Rung(0.9, 0.9)]], 2.0)
    before = answers.chance((1, 0)), answers.chance((1, 1))
    answers.good.append((0, 1))
    assert before[1] < answers.chance((1, 1)) == pytest.approx(0.9)
    unknown = answers.chance((1, 0))
    answers.bad.append((0, 0))
    assert 0.5 < answers.chance((1, 0)) < unknown < 0.9, "what was bad there lowers it"


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 0), (25.0, 2), (math.inf, 15)])
def test_what_costs_more_than_is_left_is_not_asked_and_said(seconds: float, most: int) -> None:
    few = ladder([0.5 + 0.03 * k for k in range(15)], [10.0 ** (-k / 3) for k in range(15)])
    good = Asked([9])

    def left() -> float:
        return seconds - 10 * len(good.places)

    found = fastest_good([few], 1.0, good, lambda: 10.0, left)
    assert len(good.places) <= most
    dear = [one.why for one in found.unasked if "are left" in one.why]
    assert bool(dear) == (seconds < math.inf)
    if seconds == 0:
        assert dear[0] == "10 s would be needed and 0 s are left" and found.best is None
