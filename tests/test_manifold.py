"""Precision and recall: what they count, shown on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgegen.errors import EdgegenError
from edgegen.evidence.manifold import PrecisionRecall, precision_recall

RNG = np.random.default_rng(0)
REAL = RNG.standard_normal((600, 8))


def test_a_set_against_itself_is_fully_covered() -> None:
    found = precision_recall(REAL, REAL.copy())
    assert (found.precision, found.recall) == (1.0, 1.0)


def test_sets_far_apart_share_nothing() -> None:
    found = precision_recall(REAL, REAL + 100)
    assert (found.precision, found.recall) == (0.0, 0.0)


def test_a_generator_that_makes_one_half_of_the_data_is_precise_and_recalls_half() -> None:
    modes = np.concatenate([RNG.standard_normal((300, 8)), RNG.standard_normal((300, 8)) + 50])
    made = RNG.standard_normal((600, 8))  # only the first mode
    found = precision_recall(modes, made)
    assert found.precision > 0.8
    assert 0.3 < found.recall < 0.52


def test_wild_samples_cost_precision_not_recall() -> None:
    made = REAL.copy()
    made[:300] += 100 * RNG.standard_normal((300, 8))
    found = precision_recall(REAL, made)
    assert found.precision < 0.52
    assert found.recall > 0.9


def test_blocks_do_not_change_the_answer() -> None:
    made = RNG.standard_normal((600, 8)) * 0.8
    assert precision_recall(REAL, made, block=7) == precision_recall(REAL, made, block=600)


def test_bad_sets_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"one shape with n above 3 neighbours, got \(600, 8\) and \(500, 8\)"
    ):
        precision_recall(REAL, REAL[:500])
    with pytest.raises(ValueError, match="neighbours"):
        precision_recall(REAL[:3], REAL[:3])
    broken = REAL.copy()
    broken[0, 0] = np.nan
    with pytest.raises(EdgegenError, match="NaN"):
        precision_recall(broken, REAL)


def test_balls_reach_to_the_kth_neighbour_by_hand() -> None:
    """On a line, with k = 1 and 2: radii 1, 1, 2, 4 and 3, 2, 3, 6 of the real; 0.1, 0.1, 9.9, 27.5
    and 10, 9.9, 10, 37.5.
    """
    real, made = np.array([[0.0], [1], [3], [7]]), np.array([[2.5], [2.6], [12.5], [40]])
    assert precision_recall(real, made, neighbours=1) == PrecisionRecall(0.5, 0.5, 1)
    assert precision_recall(real, made, neighbours=2) == PrecisionRecall(0.75, 1.0, 2)
