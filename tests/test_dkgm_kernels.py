"""dkgm's density estimate (docs/methods/dkgm.md, D.3 tests 1, 2 and 4): draws, densities,
bandwidths, and what half a step towards data does.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgegen.families.dkgm.kernels import (
    SHAPES,
    draw,
    likelihood_bandwidth,
    log_density,
    posterior_mean,
    shaped,
    silverman,
    variance,
)

CORNERS = torch.tensor([[1.0, 0, 0], [0, -1, 0.5], [-1, 1, 0], [0.2, 0, -1]])


# test 1: moments


@pytest.mark.parametrize("kernel", SHAPES)
def test_1_draws_have_the_estimates_own_moments(kernel: str) -> None:
    rng, h, count = torch.Generator().manual_seed(0), 0.7, 400_000
    picks = torch.randint(len(CORNERS), (count,), generator=rng)
    u = draw(kernel, (count, 3), rng)
    y = CORNERS[picks] + h * u
    assert (y.mean(0) - CORNERS.mean(0)).abs().max() < 0.01
    wanted = torch.cov(CORNERS.T, correction=0) + h**2 * variance(kernel, 3) * torch.eye(3)
    assert (torch.cov(y.T) - wanted).abs().max() < 0.02
    torch.testing.assert_close(u.var(0), torch.full((3,), variance(kernel, 3)), rtol=0.02, atol=0)
    bound = {
        "gaussian": math.inf,
        "epanechnikov": float(u.abs().max()),
        "radial": float(u.norm(dim=1).max()),
    }[kernel]
    assert bound == math.inf or 0.9 < bound <= 1


def test_the_product_kernel_is_the_three_uniform_rule() -> None:
    rng = torch.Generator().manual_seed(0)
    u1, u2, u3 = (torch.rand(200_000, generator=rng) * 2 - 1 for _ in range(3))
    rule = torch.where((u3.abs() >= u1.abs()) & (u3.abs() >= u2.abs()), u2, u3).sort().values
    ours = draw("epanechnikov", (200_000, 1), rng)[:, 0].sort().values
    assert (ours - rule).abs().max() < 0.03 and (ours - rule).abs().mean() < 0.004


def test_the_radial_kernel_has_radius_squared_beta() -> None:
    r2 = draw("radial", (200_000, 6), torch.Generator().manual_seed(0)).square().sum(1)
    a, b = 3.0, 2.0  # d / 2, 2
    assert r2.mean().item() == pytest.approx(a / (a + b), abs=0.003)
    assert r2.var().item() == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)), rel=0.02)


@pytest.mark.parametrize("kernel", SHAPES)
def test_draws_are_finite_and_odd_for_extreme_normals(kernel: str) -> None:
    z = torch.tensor([[-9.0, 9.0, 0.0], [1e-20, -1e-20, 0.0]])
    u = shaped(kernel, z, torch.full((2, 3), 1e-12))
    assert u.isfinite().all() and (u[:, 0] == -u[:, 1]).all() and (u[:, 2] == 0).all()


# test 2: density


@pytest.mark.parametrize("kernel", SHAPES)
def test_2_a_density_integrates_to_one_however_it_is_chunked(kernel: str) -> None:
    data = torch.tensor([[-1.0], [0.3], [0.35], [2.0]], dtype=torch.float64)
    grid = torch.linspace(-8, 9, 20_001, dtype=torch.float64)[:, None]
    whole = log_density(grid, data, 0.6, kernel)
    assert float(torch.trapezoid(whole.exp(), grid[:, 0])) == pytest.approx(1, abs=1e-3)
    parts = log_density(grid[::7], data, 0.6, kernel, chunk=3)
    torch.testing.assert_close(parts, whole[::7], rtol=1e-12, atol=1e-12)


def test_2_a_density_is_the_direct_sum() -> None:
    rng, h = torch.Generator().manual_seed(0), 0.4
    data, x = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for n in (50, 20))
    direct = (-(x[:, None] - data).square().sum(-1) / (2 * h**2)).logsumexp(1)
    direct = direct - 1.5 * math.log(2 * math.pi * h**2) - math.log(50)
    torch.testing.assert_close(log_density(x, data, h, chunk=7), direct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["epanechnikov", "radial"])
def test_2_in_two_dimensions_it_integrates_too_and_ends_at_the_support(kernel: str) -> None:
    axis = torch.linspace(-1.2, 1.2, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = log_density(
        grid, torch.zeros(1, 2, dtype=torch.float64), 1.0, kernel, chunk=50_000
    ).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)
    outside = grid.norm(dim=1) > 1 if kernel == "radial" else grid.abs().amax(1) > 1
    assert (density[outside] == 0).all() and (density[~outside] >= 0).all()


# bandwidths


def test_silverman_says_nothing_about_photos() -> None:
    assert silverman(1000, 1) == pytest.approx(0.27, abs=0.01)
    assert silverman(50_000, 3072) == pytest.approx(0.994, abs=0.001)


@pytest.mark.parametrize("kernel", SHAPES)
def test_the_likelihood_chooses_neither_spikes_nor_fog(kernel: str) -> None:
    data = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    # supports end: below, some points are alone
    wanted = {"gaussian": 0.4, "epanechnikov": 2.5, "radial": 2.5}[kernel]
    assert likelihood_bandwidth(data, [0.02, 0.1, 0.4, 2.5, 10.0], kernel, chunk=64) == wanted


def test_leaving_one_out_is_exact() -> None:
    data = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)

    def direct(h: float) -> float:
        return sum(
            float(log_density(data[k : k + 1], torch.cat([data[:k], data[k + 1 :]]), h))
            for k in range(3)
        )

    candidates = [0.3, 0.9, 1.0, 1.1, 4.0]
    assert likelihood_bandwidth(data, candidates) == max(candidates, key=direct)


def test_the_likelihood_is_not_asked_about_images() -> None:
    with pytest.raises(ValueError, match="at most 10 dimensions, got 5 in 11"):
        likelihood_bandwidth(torch.zeros(5, 11), [1.0])


# test 4: half a step


@pytest.mark.parametrize(("h", "s"), [(0.1, 0.5), (0.05, 0.5), (0.8, 0.5)])
def test_4_half_a_step_leaves_the_fourth_order_of_the_bias(h: float, s: float) -> None:
    """y of variance s^2 + h^2 moves by (h^2 / 2) grad log p = -h^2 y / (2 (s^2 + h^2)); a whole
    step goes too far.
    """
    total = s**2 + h**2

    def error(share: float) -> float:
        return total * (1 - share * h**2 / total) ** 2 - s**2

    assert error(0) == pytest.approx(h**2)
    assert error(0.5) == pytest.approx(h**4 / (4 * total), rel=1e-6)
    assert error(1) == pytest.approx(s**4 / total - s**2)
    if h <= 0.1:
        assert error(0.5) < 0.02 * h**2


def test_4_the_posterior_mean_is_tweedie_s_step() -> None:
    """m(y) = y + h^2 grad log p_h(y): half of it takes draws of a Gaussian back to their variance,
    all of it too far.
    """
    rng, h, s = torch.Generator().manual_seed(0), 0.3, 0.5
    data = s * torch.randn(4000, 1, generator=rng, dtype=torch.float64)
    y = data[torch.randperm(4000, generator=rng)] + h * torch.randn(
        4000, 1, generator=rng, dtype=torch.float64
    )
    point = y[:20].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(log_density(point, data, h).sum(), point)
    torch.testing.assert_close(
        posterior_mean(y[:20], data, h, chunk=7), y[:20] + h**2 * slope, rtol=1e-8, atol=1e-8
    )

    def gap(moved: Tensor) -> float:
        return float(moved.var() - data.var())

    step = posterior_mean(y, data, h) - y
    assert abs(gap(y + 0.5 * step)) < 0.25 * gap(y) and gap(y) > 0.07
    assert gap(y + step) < -0.05
