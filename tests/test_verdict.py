"""A verdict is an interval against a two-sided budget; NaN is outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.verdict import Interval, Verdict

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "low, high, state",
    [
        (-0.01, 0.01, "within"),
        (-0.02, 0.02, "within"),
        (0.03, 0.05, "outside"),
        (-0.05, -0.03, "outside"),
        (0.01, 0.03, "undecided"),
        (-0.03, -0.01, "undecided"),
        (-0.03, 0.03, "undecided"),
        (NAN, 0.01, "outside"),
        (-0.01, NAN, "outside"),
        (-INF, 0, "outside"),
        (0, INF, "outside"),
    ],
)
def test_states(low: float, high: float, state: str) -> None:
    made = Verdict(Interval((low + high) / 2, low, high), 0.02, 500)
    assert made.state == state and str(made).startswith(state)
    assert (made.more > 0) == (state == "undecided")


def test_a_value_that_is_nan_is_outside_though_its_bounds_are_not() -> None:
    assert Verdict(Interval(NAN, -0.01, 0.01), 0.02, 500).state == "outside"


@pytest.mark.parametrize("budget", [0, -0.02, NAN, INF])
def test_a_budget_is_positive_and_finite(budget: float) -> None:
    with pytest.raises(ValueError, match="a budget must be a positive fraction"):
        Verdict(Interval(0, 0, 0), budget, 1)


@given(st.floats(-1, 1), st.floats(1e-6, 1), st.floats(1e-6, 1), st.integers(1, 10**6))
def test_an_interval_has_one_state_and_more_is_wanted_when_undecided(
    v: float, half: float, budget: float, n: int
) -> None:
    made = Verdict(Interval(v, v - half, v + half), budget, n)
    inside, beyond = (
        max(abs(v - half), abs(v + half)) <= budget,
        v - half > budget or v + half < -budget,
    )
    assert made.state == ("within" if inside else "outside" if beyond else "undecided")
    assert 0 <= made.more <= 100 * n and (made.more == 0) == (made.state != "undecided")
    mirrored = Verdict(Interval(-v, -v - half, -v + half), budget, n)
    assert mirrored.state == made.state, (
        "better than full precision by more than the budget is as suspicious as worse"
    )


def test_more_comes_from_an_interval_that_narrows_with_the_square_root() -> None:
    # half 0.02, gap 0.01: four times the images
    made = Verdict(Interval(0.01, -0.01, 0.03), 0.02, 1000)
    assert made.more == 3000
