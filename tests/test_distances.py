"""Distances against closed forms, scipy, torchmetrics and brute force; NaN never becomes a
number.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgegen.errors import EdgegenError
from edgegen.evidence.distances import (
    Moments,
    PairedPsnr,
    frechet,
    kernel_distance,
    psnr,
    squared_error,
)


def features(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.gamma(2, size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)
    ).astype(np.float32)


def test_moments_are_numpys() -> None:
    x = features(50, 7, 0)
    own = Moments.of(x)
    np.testing.assert_allclose(own.mean, x.mean(0, np.float64))
    np.testing.assert_allclose(own.cov, np.cov(x.T.astype(np.float64)))
    assert own.count == 50 and own.cov.dtype == np.float64


def test_of_two_gaussians_that_commute_it_is_the_closed_form() -> None:
    a = Moments(np.array([1.0, 2.0, 3.0]), np.diag([1.0, 4.0, 9.0]), 0)
    b = Moments(np.array([0.0, 2.0, 1.0]), np.diag([4.0, 4.0, 0.0]), 0)
    assert frechet(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + 0 + 9)


# 20 rows: a covariance without full rank
@pytest.mark.slow
@pytest.mark.parametrize(("n", "dim"), [(400, 24), (20, 24)])
def test_it_agrees_with_scipy_and_torchmetrics(n: int, dim: int) -> None:
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import _compute_fid

    a, b = Moments.of(features(n, dim, 1)), Moments.of(features(500, dim, 2))
    gap = a.mean - b.mean
    by_scipy = gap @ gap + np.trace(a.cov + b.cov - 2 * np.real(sqrtm(a.cov @ b.cov)))
    by_torchmetrics = _compute_fid(*(torch.from_numpy(v) for v in (a.mean, a.cov, b.mean, b.cov)))
    assert frechet(a, b) == pytest.approx(by_scipy, rel=1e-5)
    assert frechet(a, b) == pytest.approx(float(by_torchmetrics), rel=1e-5)


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(1, 12), st.floats(0.01, 100))
def test_it_is_a_distance(seed: int, n: int, dim: int, scale: float) -> None:
    x, y = features(n, dim, seed) * np.float32(scale), features(30, dim, seed + 1)
    a, b = Moments.of(x), Moments.of(y)
    size = np.trace(a.cov) + np.trace(b.cov) + float(a.mean @ a.mean) + float(b.mean @ b.mean)
    assert 0 <= frechet(a, a) <= 1e-6 * size
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-6, abs=1e-6 * size)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    turned = Moments.of(x.astype(np.float64) @ turn), Moments.of(y.astype(np.float64) @ turn)
    assert frechet(*turned) == pytest.approx(frechet(a, b), rel=1e-5, abs=1e-6 * size)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_an_error(bad: float) -> None:
    x = features(10, 3, 0)
    good = Moments.of(x)
    x[4, 1] = bad
    for attempt in (
        lambda: Moments.of(x),
        lambda: kernel_distance(x, x),
        lambda: frechet(Moments(good.mean * bad, good.cov, 9), good),
        lambda: squared_error(x[:, None, None], x[:, None, None]),
    ):
        with (
            pytest.raises(EdgegenError, match=r"E-NONFINITE.* NaN or infinite"),
            np.errstate(invalid="ignore"),
        ):
            attempt()


def test_sets_that_cannot_be_compared_are_named() -> None:
    with pytest.raises(ValueError, match="got 3 and 4 dimensions"):
        frechet(Moments.of(features(9, 3, 0)), Moments.of(features(9, 4, 0)))
    with pytest.raises(EdgegenError, match="at least 2 rows"):
        Moments.of(features(1, 3, 0))
    with pytest.raises(ValueError, match=r"\(9, 3\) and \(1, 3\)"):
        kernel_distance(features(9, 3, 0), features(1, 3, 0))
    with pytest.raises(ValueError, match="one shape and type"):
        psnr(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3), np.float32))


def test_the_kernel_distance_is_the_sum_over_pairs_and_blocks_do_not_matter() -> None:
    x, y = features(13, 5, 0) / 9, features(17, 5, 1) / 9

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a.astype(np.float64) @ b.astype(np.float64) / 5 + 1) ** 3)

    def pairs(p: np.ndarray) -> float:
        return float(
            np.mean([kernel(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j])
        )

    wanted = pairs(x) + pairs(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(wanted)
    assert kernel_distance(x, y, block=4) == pytest.approx(wanted)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    found = [
        kernel_distance(
            np.random.default_rng(k).normal(size=(40, 4)).astype(np.float32),
            np.random.default_rng(k + 999).normal(size=(40, 4)).astype(np.float32),
        )
        for k in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0  # unbiased: clamping at 0 would shift the mean


def test_psnr_of_a_known_error_is_the_same_for_bytes_and_floats() -> None:
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 10
    b[1, 0, 0, 0] += 16
    wanted = [20 * np.log10(255 / 10), 10 * np.log10(255**2 / (16**2 / 48))]
    np.testing.assert_allclose(psnr(a, b), wanted)
    np.testing.assert_allclose(
        psnr(a.astype(np.float32) / 127.5 - 1, b.astype(np.float32) / 127.5 - 1), wanted, rtol=1e-6
    )


def test_the_two_summaries_of_psnr() -> None:
    both = PairedPsnr.of(np.array([0.0, 0.01, 0.02]))
    assert both.pooled_db == pytest.approx(20) and both.median_db == pytest.approx(20)
    skewed = PairedPsnr.of(np.array([1e-6, 1e-6, 1.0]))
    assert skewed.median_db == pytest.approx(60) and skewed.pooled_db == pytest.approx(
        10 * np.log10(3), rel=1e-5
    )
    equal = PairedPsnr.of(
        squared_error(np.zeros((3, 2, 2, 3), np.uint8), np.zeros((3, 2, 2, 3), np.uint8))
    )
    assert math.isinf(equal.pooled_db) and math.isinf(equal.median_db)
