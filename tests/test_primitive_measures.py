"""What is measured of primitives, and the sparse regression that predicts unseen demands (B.2.5 and
B.2.3 of docs/methods/regional-primitives.md).
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgegen.explain import lattice, measures, sparse


def world(
    n: int = 8, true: tuple[int, ...] = (1, 6, 40, 129), width: int = 30, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """All demands of n regions, and what they change when only the `true` components exist."""
    rng = np.random.default_rng(seed)
    demanded = np.arange(1 << n)
    return demanded, lattice.meets(demanded, np.array(true)) @ rng.normal(size=(len(true), width))


def test_compact_keeps_norms_and_angles() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 500)).astype(np.float32)
    small = measures.compact(rows)
    assert small.shape == (7, 7)
    np.testing.assert_allclose(small @ small.T, rows.astype(float) @ rows.T, rtol=1e-4)
    assert measures.compact(rows[:, :5]).shape == (7, 5)


def test_additivity_error_is_0_for_all_components_and_1_for_none() -> None:
    demanded, u = world()
    parts = lattice.components(u)[1:]
    sets = demanded[1:]
    assert measures.additivity_error(sets, parts, demanded, u) < 1e-12
    assert measures.additivity_error(sets[:0], parts[:0], demanded, u) == 1
    assert measures.needed(sets, parts, demanded, u, 0.01) == 4
    assert measures.needed(sets, parts, demanded, u, 0.9) < 4
    assert measures.visible(measures.strengths(parts)) == 4


def test_a_change_s_energy_inside_a_mask() -> None:
    change = np.zeros((3, 4, 4))
    change[:, :2] = 2.0
    change[:, 2:] = 1.0
    top = np.zeros((4, 4), bool)
    top[:2] = True
    assert measures.inside_share(change, top) == pytest.approx(0.8)
    assert math.isnan(measures.inside_share(change * 0, top))


def test_the_action_field_is_where_an_image_really_changes() -> None:
    masks = np.zeros((3, 3, 3), bool)
    masks[[0, 1, 2], :, [0, 1, 2]] = True
    change = np.zeros((1, 3, 3))
    change[:, :, 0], change[:, :, 1], change[:, :, 2] = 1.0, -0.5, 0.05
    assert measures.action_field(change, masks) == 0b011
    assert measures.action_field(change * 0, masks) == 0
    assert measures.overlap(0b011, 0b110) == pytest.approx(1 / 3)


def test_cosine_and_psnr() -> None:
    a = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert measures.cosine(a, 3 * a) == pytest.approx(1)
    assert math.isnan(measures.cosine(a, 0 * a))
    assert measures.psnr(a, a) == math.inf
    assert measures.psnr(a, a + 0.2) == pytest.approx(20)


def test_transfer_and_its_chance_level() -> None:
    """Sets drawn at random are found as often as the chance level says: 20 in 100 of 511 is 19.6 %,
    not nothing.
    """
    a, b = list(range(1, 41)), list(range(21, 61))
    assert measures.transfer(a, b, 20, 20) == 0 and measures.transfer(a, b, 40, 40) == 0.5
    assert measures.chance(100, 9) == pytest.approx(100 / 511)
    rng = np.random.default_rng(0)
    draws = [
        measures.transfer(rng.permutation(511).tolist(), rng.permutation(511).tolist(), 20, 100)
        for _ in range(400)
    ]
    assert np.mean(draws) == pytest.approx(measures.chance(100, 9), abs=0.015)


def test_the_regression_finds_the_true_components_and_predicts_unseen_demands() -> None:
    demanded, u = world()
    sets = sparse.candidates(8, suggested=np.array([129]))
    found = sparse.regress(demanded, u, sets, np.random.default_rng(1))
    assert set(found.sets.tolist()) >= {1, 6, 40, 129}
    assert found.held_out < 1e-6
    strong = found.sets[measures.strengths(found.vectors) > 0.05]
    assert strong.tolist() == [1, 6, 40, 129]


def test_unrelated_demands_cannot_be_predicted() -> None:
    """On a game without structure the held-out error is that of knowing nothing: the measure does
    not flatter.
    """
    rng = np.random.default_rng(0)
    u = rng.normal(size=(256, 20))
    u[0] = 0
    found = sparse.regress(np.arange(256), u, sparse.candidates(8), rng)
    assert found.held_out > 0.9


def test_a_penalty_leaves_nothing_from_the_lightest_on() -> None:
    demanded, u = world()
    sets = sparse.candidates(8)
    top = sparse.lightest(demanded, u, sets)
    assert not sparse.fit(demanded, u, sets, 1.001 * top).any()
    assert sparse.fit(demanded, u, sets, 0.9 * top).any()


def test_group_lasso_is_optimal() -> None:
    """Its condition: |A_S'(u - A x)| = penalty where x_S is not 0, and at most the penalty where it
    is.
    """
    demanded, u = world(5, (1, 6, 24))
    u = u + np.random.default_rng(3).normal(0, 0.3, u.shape)
    sets, a = sparse.candidates(5), lattice.meets(demanded, sparse.candidates(5))
    penalty = 0.1 * sparse.lightest(demanded, u, sets)
    x = sparse.fit(demanded, u, sets, penalty)
    slope = measures.strengths(a.T @ (u - a @ x))
    kept = measures.strengths(x) > 0
    assert 0 < kept.sum() < len(sets)
    np.testing.assert_allclose(slope[kept], penalty, rtol=1e-2)
    assert slope[~kept].max() <= penalty * 1.01


def test_more_regions_than_a_lattice_holds() -> None:
    """36 regions, 600 demands, 5 components: only the regression can do it."""
    rng = np.random.default_rng(0)
    true = np.array([1 << 3, 1 << 10 | 1 << 11, 1 << 35, 1 << 20 | 1 << 26, 1 << 7])
    demanded = np.array(
        [sum(1 << int(j) for j in np.flatnonzero(row)) for row in rng.random((600, 36)) < 0.15],
        np.int64,
    )
    u = lattice.meets(demanded, true) @ rng.normal(size=(5, 12))
    found = sparse.regress(demanded, u, sparse.candidates(36, true, order=1), rng)
    assert found.held_out < 1e-6 and set(
        found.sets[measures.strengths(found.vectors) > 0.01].tolist()
    ) == set(true.tolist())
