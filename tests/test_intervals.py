"""Intervals: the influence and the bias are what brute force gives, coverage is nominal, pairing
pays, NaN never passes.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.verdict import Verdict
from edgegen.errors import EdgegenError
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.intervals import distance_change, distance_interval, estimate

DIM = 6


class World:
    """A skewed population of full-precision features, its damaged twin and a reference, all with
    known moments.
    """

    def __init__(self, damage: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.damage = rng.normal(size=(DIM, DIM)) + 2 * np.eye(DIM), damage
        self.bend, self.shift = (
            np.eye(DIM) + damage * rng.normal(size=(DIM, DIM)),
            damage * rng.normal(size=DIM),
        )
        cov = self.shape.T @ self.shape
        self.full = Moments(np.zeros(DIM), cov, 0)
        self.other = Moments(self.shift, self.bend.T @ cov @ self.bend + damage**2 * np.eye(DIM), 0)
        self.reference = Moments(3 * rng.normal(size=DIM), 1.5 * cov + np.eye(DIM), 0)

    def draw(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        # skewed: nothing here may lean on normality
        x = (rng.gamma(4, size=(n, DIM)) - 4) / 2 @ self.shape
        return x, x @ self.bend + self.shift + self.damage * rng.normal(size=x.shape)

    @property
    def distance(self) -> float:
        return frechet(self.full, self.reference)

    @property
    def change(self) -> float:
        return frechet(self.other, self.reference) / self.distance - 1


def test_the_influence_is_the_jackknife() -> None:
    world = World(0.1)
    x = world.draw(300, 0)[0]
    whole = frechet(Moments.of(x), world.reference)
    left_out = [whole - frechet(Moments.of(np.delete(x, k, 0)), world.reference) for k in range(40)]
    wanted = np.array(left_out) * 299
    found = estimate(world.reference, x).influence
    assert abs(found.mean()) < 1e-9 * abs(found).max()
    np.testing.assert_allclose(found[:40], wanted, atol=0.03 * np.abs(wanted).max())


def test_the_correction_takes_off_the_bias_of_few_samples() -> None:
    world = World(0.1)
    draws = [world.draw(60, seed)[0] for seed in range(400)]
    plain = np.array([frechet(Moments.of(x), world.reference) for x in draws])
    found = np.array([estimate(world.reference, x).value for x in draws])
    noise = found.std() / np.sqrt(len(found))
    assert plain.mean() - world.distance > 5 * noise
    assert abs(found.mean() - world.distance) < 3 * noise


@pytest.mark.parametrize("damage", [0.002, 0.02, 0.3])
def test_coverage_is_nominal(damage: float) -> None:
    world = World(damage)
    runs, held, own = 300, 0, 0
    for seed in range(runs):
        x, y = world.draw(400, seed)
        a, b = estimate(world.reference, x), estimate(world.reference, y)
        change = distance_change(a, b)
        held += change.low <= world.change <= change.high
        own += a.interval().low <= world.distance <= a.interval().high
    assert 0.92 <= held / runs <= 0.98
    assert 0.92 <= own / runs <= 0.98


def test_pairing_pays() -> None:
    world = World(0.02)
    x, y = world.draw(500, 1)
    a, b = estimate(world.reference, x), estimate(world.reference, y)
    paired = distance_change(a, b)
    unpaired = distance_change(
        a, estimate(world.reference, y[np.random.default_rng(0).permutation(500)])
    )
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 4
    assert paired.value == pytest.approx(unpaired.value)


def test_equal_images_change_nothing_for_certain() -> None:
    x = World(0.1).draw(100, 0)[0]
    a = estimate(World(0.1).reference, x)
    assert (distance_change(a, a).low, distance_change(a, a).value, distance_change(a, a).high) == (
        0,
        0,
        0,
    )


@given(st.integers(0, 10**6))
def test_intervals_do_not_depend_on_order_or_orientation(seed: int) -> None:
    world = World(0.05)
    x, y = world.draw(200, seed)
    order = np.random.default_rng(seed).permutation(200)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))[0]
    reference = Moments(world.reference.mean @ turn, turn.T @ world.reference.cov @ turn, 0)

    def change(x: np.ndarray, y: np.ndarray, reference: Moments) -> list[float]:
        found = distance_change(estimate(reference, x), estimate(reference, y))
        return [found.low, found.value, found.high]

    wanted = change(x, y, world.reference)
    assert change(x, y, world.reference) == wanted
    assert change(x[order], y[order], world.reference) == pytest.approx(wanted, abs=1e-9)
    assert change(x @ turn, y @ turn, reference) == pytest.approx(wanted, abs=1e-9)
    assert change(
        3 * x, 3 * y, Moments(3 * world.reference.mean, 9 * world.reference.cov, 0)
    ) == pytest.approx(wanted, abs=1e-9)


def test_a_higher_level_is_wider_and_more_images_are_narrower() -> None:
    world = World(0.05)
    x, y = world.draw(1600, 0)

    def width(n: int, level: float) -> float:
        found = distance_change(
            estimate(world.reference, x[:n]), estimate(world.reference, y[:n]), level
        )
        return found.high - found.low

    widths = [
        width(n, level) for n, level in ((1600, 0.9), (1600, 0.95), (1600, 0.999), (100, 0.999))
    ]
    assert all(a < b for a, b in pairwise(widths))
    assert width(100, 0.95) / width(1600, 0.95) == pytest.approx(4, rel=0.4)


def test_images_that_are_all_alike_are_far_away_and_finite() -> None:
    world = World(0.05)
    x, alike = world.draw(100, 0)[0], np.ones((100, DIM))
    found = distance_change(estimate(world.reference, x), estimate(world.reference, alike))
    assert found.finite and found.low > 0
    assert Verdict(found, 0.02, 100).state == "outside"
    gap = 1 - world.reference.mean
    assert distance_interval(world.reference, alike).value == pytest.approx(
        gap @ gap + np.trace(world.reference.cov), rel=1e-6
    )


def test_what_cannot_be_told_is_an_error() -> None:
    world = World(0.05)
    x = world.draw(100, 0)[0]
    a = estimate(world.reference, x)
    with pytest.raises(EdgegenError, match=r"E-DATA-TOO-FEW.*needs more than 6 images, got 6"):
        estimate(world.reference, x[:6])
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        estimate(world.reference, np.where(x == x[3, 2], math.nan, x))
    with pytest.raises(ValueError, match="equal counts, got 100 and 50"):
        distance_change(a, estimate(world.reference, x[:50]))
    near = estimate(world.full, x)  # the reference is the very population the images come from
    with pytest.raises(
        EdgegenError,
        match=r"E-FID-SCALE.*too near zero for a relative change over 100 images - use more",
    ):
        distance_change(near, a)
