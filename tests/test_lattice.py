"""The OR decomposition: every identity of docs/methods/regional-primitives.md, B.2.2 (tests 1 to 3,
6 and 7 of B.3).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgegen.explain import lattice


def naive(u: np.ndarray) -> np.ndarray:
    """I_or by its formula, subset by subset."""
    n = len(u).bit_length() - 1
    full = len(u) - 1
    out = np.empty_like(u)
    out[0] = u[0]
    for s in range(1, len(u)):
        regions = [j for j in range(n) if s >> j & 1]
        total = np.zeros_like(u[0])
        for k in range(len(regions) + 1):
            for inner in combinations(regions, k):
                total = total + (-1) ** (len(regions) - k) * u[full ^ sum(1 << j for j in inner)]
        out[s] = -total
    return out


def drawn(n: int, width: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1 << n, width))


@pytest.mark.parametrize("n", range(8))
def test_the_fast_transform_is_the_formula_and_has_an_inverse(n: int) -> None:
    u = drawn(n)
    np.testing.assert_allclose(lattice.components(u), naive(u), atol=1e-12)
    np.testing.assert_allclose(lattice.demands(lattice.components(u)), u, atol=1e-12)
    np.testing.assert_allclose(lattice.components(lattice.demands(u)), u, atol=1e-12)


def test_a_demand_is_the_sum_of_the_components_that_meet_it() -> None:
    u = drawn(6)
    parts = lattice.components(u)
    for demanded in range(len(u)):
        meeting = [s for s in range(1, len(u)) if s & demanded]
        np.testing.assert_allclose(parts[0] + parts[meeting].sum(0), u[demanded], atol=1e-12)
    everything = np.arange(1, len(u))
    np.testing.assert_allclose(
        lattice.meets(np.arange(len(u)), everything) @ parts[1:] + parts[0], u, atol=1e-12
    )


def test_known_games() -> None:
    """OR, AND, a sum of single regions and a constant, each of regions a = 1 and b = 2 of four."""
    t = np.arange(16)
    a, b = t & 1, t >> 1 & 1
    both = lattice.components((a | b)[:, None].astype(float))[:, 0]
    assert {s: v for s, v in enumerate(both) if v} == {3: 1}
    conjunction = lattice.components((a & b)[:, None].astype(float))[:, 0]
    assert {s: v for s, v in enumerate(conjunction) if v} == {1: 1, 2: 1, 3: -1}
    values = np.array([0.5, -1.0, 2.0, 4.0])
    single = lattice.components((t[:, None] >> np.arange(4) & 1) @ values[:, None])[:, 0]
    assert {s: v for s, v in enumerate(single) if abs(v) > 1e-12} == {
        1: 0.5,
        2: -1.0,
        4: 2.0,
        8: 4.0,
    }
    constant = lattice.components(np.full((16, 1), 7.0))[:, 0]
    assert {s: v for s, v in enumerate(constant) if v} == {0: 7.0}


def test_a_region_that_changes_nothing_is_in_no_component() -> None:
    u = drawn(5)
    u = u[np.arange(32) & ~4]  # region 2 does not matter
    parts = lattice.components(u)
    assert np.abs(parts[[s for s in range(32) if s & 4]]).max() < 1e-12
    assert np.abs(parts[1:4]).min() > 1e-3


def test_regions_that_are_alike_have_equal_components() -> None:
    u = drawn(5)
    exchanged = np.array([s & ~3 | (s & 1) << 1 | (s & 2) >> 1 for s in range(32)])
    parts = lattice.components((u + u[exchanged]) / 2)
    np.testing.assert_allclose(parts, parts[exchanged], atol=1e-12)


def test_the_decomposition_is_linear() -> None:
    u, v = drawn(5), drawn(5, seed=1)
    expected = 2 * lattice.components(u) - 3 * lattice.components(v)
    np.testing.assert_allclose(lattice.components(2 * u - 3 * v), expected, atol=1e-12)


def test_or_is_the_negative_and_of_the_dual() -> None:
    u = drawn(5)
    dual = u[::-1]
    for s in range(1, 32):
        inside = [t for t in range(32) if t & ~s == 0]
        harsanyi = sum((-1) ** ((s ^ t).bit_count()) * dual[t] for t in inside)
        np.testing.assert_allclose(lattice.components(u)[s], -harsanyi, atol=1e-12)


def test_noise_grows_with_the_size_of_a_set() -> None:
    """Var = 2^|S| sigma^2, the set of all regions included, and the floor says so."""
    n, sigma = 5, 0.1
    noise = np.random.default_rng(0).normal(0, sigma, (1 << n, 40_000))
    spread = lattice.components(noise).var(1)
    sizes = lattice.sizes(np.arange(1 << n))
    np.testing.assert_allclose(spread[1:], 2.0 ** sizes[1:] * sigma**2, rtol=0.05)
    per_demand = sigma * np.sqrt(noise.shape[1])
    floors = lattice.noise_floor(per_demand, np.arange(1, 1 << n), kappa=1.0)
    np.testing.assert_allclose(
        np.linalg.norm(lattice.components(noise), axis=1)[1:], floors, rtol=0.03
    )


def test_chunks_change_nothing_and_types_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    u = drawn(4, 11).astype(np.float32).reshape(16, 11, 1)
    whole = lattice.components(u)
    monkeypatch.setattr(lattice, "CHUNK", 16 * 3)
    np.testing.assert_array_equal(lattice.components(u), whole)
    assert whole.dtype == np.float32 and whole.shape == u.shape


def test_sums_are_taken_in_float64() -> None:
    """2^9 float32 numbers around 1000 with alternating signs would lose what a component is."""
    u = (drawn(9, 2) + 1000).astype(np.float32)
    exact = lattice.components(u.astype(np.float64))
    np.testing.assert_allclose(lattice.components(u), exact.astype(np.float32), rtol=1e-6)


def test_other_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a lattice has 2\*\*n rows, got 6"):
        lattice.components(np.zeros((6, 1)))
