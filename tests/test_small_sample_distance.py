"""Distances to few photos: values are those of others, influences those of brute force, intervals
hold, NaN never passes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgegen.core.verdict import Interval
from edgegen.errors import EdgegenError, InputError
from edgegen.evidence import small_sample_distance
from edgegen.evidence.distances import Moments, frechet, kernel_distance

DIM, POOL = 16, 800


class Pools:
    """Three finite populations, so that truths are exact: photos, and images before and after a
    training, seed by seed.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        centres, shape = rng.normal(size=(4, DIM)) / 2, rng.normal(size=(DIM, DIM)) / 8

        def draw() -> np.ndarray:  # clusters, heavy tails
            return centres[rng.integers(4, size=POOL)] + (
                rng.standard_t(5, size=(POOL, DIM)) @ shape
            )

        seeds = draw()
        self.photos, self.before, self.after = draw(), 1.5 * seeds + 0.8, 1.05 * seeds + 0.05

    def kernel(self, x: np.ndarray) -> float:
        """As whole populations: pairs of an image with itself count too."""
        a, b, c = (
            ((p @ q.T / DIM + 1) ** 3).mean()
            for p, q in ((x, x), (self.photos, self.photos), (x, self.photos))
        )
        return float(a + b - 2 * c)

    def frechet(self, x: np.ndarray, along: small_sample_distance.Directions) -> float:
        return frechet(
            *(Moments(p.mean(0), np.cov(p.T, bias=True), 0) for p in (along(x), along(self.photos)))
        )

    def draw(
        self, photos: int, seed: int, images: int = 256
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((seed, photos))
        seeds = rng.integers(POOL, size=images)
        return self.before[seeds], self.after[seeds], self.photos[rng.integers(POOL, size=photos)]


POOLS = Pools()
ALONG = small_sample_distance.directions(POOLS.photos[:400], 40)


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


@pytest.mark.slow
def test_the_value_is_torchmetrics_and_our_own() -> None:
    from torchmetrics.image.kid import poly_mmd

    before, _, photos = POOLS.draw(60, 0, 60)
    found = small_sample_distance.kernel(before, photos).value
    assert found == pytest.approx(
        float(poly_mmd(torch.from_numpy(before), torch.from_numpy(photos))), rel=1e-9
    )
    more = POOLS.draw(35, 0)[0]
    assert small_sample_distance.kernel(more, photos).value == pytest.approx(
        kernel_distance(more, photos), rel=1e-9
    )


def test_the_influence_is_the_jackknife() -> None:
    before, _, photos = POOLS.draw(80, 1)
    found = small_sample_distance.kernel(before, photos)
    whole = kernel_distance(before, photos)
    made = [255 * (whole - kernel_distance(np.delete(before, k, 0), photos)) for k in range(30)]
    held = [79 * (whole - kernel_distance(before, np.delete(photos, k, 0))) for k in range(30)]
    np.testing.assert_allclose(found.made[:30], made, atol=0.03 * np.abs(made).max())
    np.testing.assert_allclose(found.held_out[:30], held, atol=0.05 * np.abs(held).max())
    assert abs(found.made.mean()) + abs(found.held_out.mean()) < 1e-9 * np.abs(made).max()


@pytest.mark.parametrize("photos", [25, 100])
def test_kernel_intervals_hold(photos: int) -> None:
    runs, held = 250, np.zeros(3)
    first, last = POOLS.kernel(POOLS.before), POOLS.kernel(POOLS.after)
    for seed in range(runs):
        x, y, real = POOLS.draw(photos, seed)
        a, b = small_sample_distance.kernel(x, real), small_sample_distance.kernel(y, real)
        held += [
            holds(b.interval(), last),
            holds(small_sample_distance.change(a, b), last - first),
            holds(small_sample_distance.ratio(a, b), last / first),
        ]
    assert ((held / runs >= 0.92) & (held / runs <= 1)).all(), held / runs


def test_pairing_pays() -> None:
    x, _, real = POOLS.draw(60, 0)
    a, near = small_sample_distance.kernel(x, real), small_sample_distance.kernel(1.02 * x, real)
    paired, alone = small_sample_distance.change(a, near), [found.interval() for found in (a, near)]
    assert paired.high - paired.low < sum(found.high - found.low for found in alone) / 10
    assert paired.low > 0


@pytest.mark.parametrize("photos", [40, 100])
def test_frechet_intervals_hold_and_the_correction_takes_the_bias_off(photos: int) -> None:
    runs, held, off = 250, np.zeros(2), []
    first, last = (POOLS.frechet(x, ALONG) for x in (POOLS.before, POOLS.after))
    for seed in range(runs):
        x, y, real = POOLS.draw(photos, seed)
        a, b = (
            small_sample_distance.frechet(x, real, ALONG),
            small_sample_distance.frechet(y, real, ALONG),
        )
        held += [holds(b.interval(), last), holds(small_sample_distance.ratio(a, b), last / first)]
        off.append((frechet(Moments.of(ALONG(y)), Moments.of(ALONG(real))) - last, b.value - last))
    plain, corrected = np.mean(off, 0)
    assert ((held / runs >= 0.91) & (held / runs <= 1)).all(), held / runs
    assert plain > 0.1 * last and abs(corrected) < 0.25 * plain


def test_a_perfect_generator_is_not_told_from_the_photos() -> None:
    beyond = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = small_sample_distance.kernel(
            POOLS.photos[rng.integers(POOL, size=200)], POOLS.photos[rng.integers(POOL, size=50)]
        )
        beyond += found.interval().low > 0
    assert beyond <= 5


def test_directions_are_the_training_photos_own_and_few() -> None:
    found = small_sample_distance.directions(POOLS.photos, 40)
    assert found.axes.shape == (DIM, 10)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(10), atol=1e-9)
    spread = found(POOLS.photos).var(0)
    assert (np.diff(spread) <= 0).all() and spread[0] == pytest.approx(
        np.linalg.eigvalsh(np.cov(POOLS.photos.T, bias=True))[-1]
    )
    with pytest.raises(InputError, match=r"E-DATA-TOO-FEW.*10 directions for 40 photos"):
        small_sample_distance.directions(POOLS.photos[:10], 40)
    with pytest.raises(InputError, match="0 directions for 3 photos"):
        small_sample_distance.directions(POOLS.photos, 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(["kernel", "frechet"]))
def test_order_does_not_matter_and_pairs_are_rows(seed: int, kind: str) -> None:
    x, y, real = POOLS.draw(48, seed, 64)
    rows, photos = (np.random.default_rng(seed).permutation(n) for n in (64, 48))

    def found(x: np.ndarray, y: np.ndarray, real: np.ndarray) -> list[float]:
        a, b = (
            small_sample_distance.kernel(p, real)
            if kind == "kernel"
            else small_sample_distance.frechet(p, real, ALONG)
            for p in (x, y)
        )
        step = small_sample_distance.change(a, b)
        return [a.value, a.interval().low, b.interval().high, step.low, step.value, step.high]

    wanted = found(x, y, real)
    assert found(x[rows], y[rows], real[photos]) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert found(x, y[rows], real)[:3] == pytest.approx(wanted[:3], rel=1e-6, abs=1e-9)
    assert wanted[4] == pytest.approx(found(y, y, real)[0] - wanted[0], abs=1e-9)


def test_the_same_images_do_not_change() -> None:
    x, _, real = POOLS.draw(30, 0)
    a = small_sample_distance.kernel(x, real)
    assert small_sample_distance.change(a, a) == Interval(0, 0, 0)
    assert small_sample_distance.ratio(a, a) == Interval(1, 1, 1)


def test_a_higher_level_is_wider_and_more_photos_are_narrower() -> None:
    def width(photos: int, level: float) -> float:
        x, _, real = POOLS.draw(photos, 3)
        found = small_sample_distance.kernel(x, real).interval(level)
        return found.high - found.low

    assert width(200, 0.9) < width(200, 0.95) < width(200, 0.99) < width(20, 0.99)


@pytest.mark.parametrize("freedom", [7, 10, 19.5, 49, 99, 500, 1e6])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_students_quantile(freedom: float, level: float) -> None:
    from scipy.stats import t as student_t

    wanted = student_t.ppf((1 + level) / 2, freedom)
    assert small_sample_distance.student(level, freedom) == pytest.approx(
        wanted, rel=1e-2 if level > 0.95 else 2e-3
    )


def test_a_distance_goes_through_json() -> None:
    x, y, real = POOLS.draw(30, 0)
    a, b = small_sample_distance.kernel(x, real), small_sample_distance.kernel(y, real)
    again = small_sample_distance.Distance.from_json(json.loads(json.dumps(a.to_json())))
    assert (
        small_sample_distance.change(again, b) == small_sample_distance.change(a, b)
        and again.value == a.value
    )
    with pytest.raises(ValueError, match="shapes"):
        small_sample_distance.Distance.from_json({"value": 1, "made": [[1.0]], "held_out": [1.0]})
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        small_sample_distance.Distance.from_json({**a.to_json(), "value": math.nan})


def test_what_cannot_be_told_is_an_error() -> None:
    x, y, real = POOLS.draw(30, 0)
    a, near = (
        small_sample_distance.kernel(x, real),
        small_sample_distance.kernel(POOLS.photos[:256], real),
    )
    bad = np.where(x == x[3, 2], math.nan, x)
    calls: list[Callable[[], object]] = [
        lambda: small_sample_distance.kernel(bad, real),
        lambda: small_sample_distance.frechet(bad, real, ALONG),
        lambda: small_sample_distance.kernel(x, bad[:30]),
    ]
    for broken in calls:
        with pytest.raises(EdgegenError, match="E-NONFINITE"):
            broken()
    with pytest.raises(
        InputError,
        match=r"E-DATA-TOO-FEW.*at least 8 generated images.*got 256 and 7 - hold out more photos",
    ):
        small_sample_distance.kernel(x, real[:7])
    with pytest.raises(ValueError, match="one network"):
        small_sample_distance.kernel(x, real[:, :5])
    with pytest.raises(
        ValueError, match="same seeds and photos, got 256 and 256 images, 30 and 20 photos"
    ):
        small_sample_distance.change(a, small_sample_distance.kernel(y, real[:20]))
    with pytest.raises(EdgegenError, match=r"E-FID-SCALE.*too near zero to be divided by"):
        small_sample_distance.ratio(near, a)


def test_a_ratio_over_an_unsure_distance_has_a_long_upper_side() -> None:
    rng = np.random.default_rng(0)
    before, after = (
        small_sample_distance.Distance(
            value, *(scale * (r - r.mean()) for r in (rng.normal(size=100), rng.normal(size=100)))
        )
        for value, scale in ((10.0, 22.0), (4.0, 9.0))
    )
    found = small_sample_distance.ratio(before, after)
    assert found.low < 0.4 < found.high and found.high - 0.4 > 1.3 * (0.4 - found.low)
    # what Fieller's interval is: the ratios r at which after - r before is just t errors from 0
    for r in (found.low, found.high):
        rest = small_sample_distance.Distance(
            4 - 10 * r, after.made - r * before.made, after.held_out - r * before.held_out
        ).interval()
        assert abs(rest.value) == pytest.approx((rest.high - rest.low) / 2, rel=0.01)
    with pytest.raises(EdgegenError, match="E-FID-SCALE"):
        small_sample_distance.ratio(
            small_sample_distance.Distance(2.0, before.made, before.held_out), after
        )
    with pytest.raises(EdgegenError, match="E-FID-SCALE"):
        small_sample_distance.ratio(
            small_sample_distance.Distance(-10.0, before.made, before.held_out), after
        )
