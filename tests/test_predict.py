"""Damages of many layers from those of a few and from the errors of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgegen.calibrate.predict import predicted, rank_correlation, to_check

ERRORS = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40)


@given(ERRORS)
def test_what_is_checked_reaches_from_the_smallest_error_to_the_largest(
    errors: list[float],
) -> None:
    places = to_check(errors)
    assert len(places) == min(len(errors), 10) == len(set(places))
    checked = [errors[place] for place in places]
    assert min(checked) == min(errors) and max(checked) == max(errors)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_ranks_correlate_as_scipys_do(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    if len(set(one)) > 1 and len(set(other)) > 1:
        expected = stats.spearmanr(one, other).statistic
        assert rank_correlation(one, other) == pytest.approx(expected, abs=1e-9)
    else:
        assert rank_correlation(one, other) == 0.0


def test_two_layers_say_nothing_against_their_errors() -> None:
    assert rank_correlation([1.0, 2.0], [2.0, 1.0]) == 1.0


@given(ERRORS)
def test_a_power_of_the_error_is_found_again(errors: list[float]) -> None:
    truth = [3.0 * error**0.7 for error in errors]
    found = predicted(errors, {place: truth[place] for place in to_check(errors)})
    assert found == pytest.approx(truth, rel=1e-6) or len(set(errors)) == 1


@given(ERRORS)
def test_a_larger_error_never_predicts_less_damage(errors: list[float]) -> None:
    rng = np.random.default_rng(len(errors))
    known = {place: float(rng.exponential()) for place in to_check(errors)}
    found = predicted(errors, known)
    assert all(found[place] == damage for place, damage in known.items()), "as they were measured"
    rest = sorted((errors[k], found[k]) for k in range(len(errors)) if k not in known)
    assert [damage for _, damage in rest] == sorted(damage for _, damage in rest)


def test_a_layer_that_changes_nothing_is_no_trouble() -> None:
    found = predicted([0.0, 1.0, 2.0, 0.0], {0: 0.0, 1: 0.5, 2: 0.9})
    assert found[:3] == [0.0, 0.5, 0.9] and 0 <= found[3] < 0.5
