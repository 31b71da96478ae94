"""dkgm's bridge and sampler with the exact clean image (docs/methods/dkgm.md, D.3 tests 3, 5 to 9):
no network, so only the loop is judged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgegen.core.samplers import (
    UNTIMED,
    BridgeSampler,
    approximation_levels,
    power_levels,
    sampler_from_json,
    sampler_to_json,
)
from edgegen.core.samplers.bridge import TIMES, step
from edgegen.errors import TrustError
from edgegen.families.dkgm.debias import Bridge, bridge_loss, deviation
from edgegen.families.dkgm.kernels import posterior_mean

Clean = Callable[[np.ndarray, float], np.ndarray]  # E[x | X_t] of values (n, ...) at level t


def uniform(steps: int, noise: float = 0.0, **other: Any) -> BridgeSampler:
    return BridgeSampler(power_levels(steps), noise, **other)


def upper(steps: int, noise: float) -> BridgeSampler:
    return BridgeSampler(power_levels(steps, 2.0), noise)


def refined(sampler: BridgeSampler, clean: Clean, coarse: np.ndarray, seed: int = 0) -> np.ndarray:
    """coarse (n,) or (n, d) through the sampler's loop."""
    rng = np.random.default_rng(seed)
    x = coarse.reshape(len(coarse), 1, 1, -1)

    def debias(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        return clean(x[:, 0, 0], float(t[0]) / TIMES).reshape(x.shape)

    made: np.ndarray = sampler.refine(debias, x, {}, lambda _: rng.standard_normal(x.shape))
    return made.reshape(coarse.shape)


# test 3: algebra of the bridge


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.8), (0.7, 0.3), (0.2, 0.01), (0.5, 0.0)])
def test_3_an_update_is_the_bridge_s_own_conditional(t: float, s: float) -> None:
    """Given x and X_t, whatever the coarse image was: mean and variance of X_s from the bridge's
    covariance k^2 s (1 - t).
    """
    x, coarse, now, k = 0.3, -1.2, 0.7, 0.4
    mean = {u: (1 - u) * x + u * coarse for u in (s, t)}
    if t < 1:
        shared = s * (1 - t)
        wanted = mean[s] + shared / (t * (1 - t)) * (now - mean[t])
        left = k**2 * (s * (1 - s) - shared**2 / (t * (1 - t)))
    else:
        now, wanted, left = coarse, mean[s], k**2 * s * (1 - s)
    gain, fresh = step(t, s, k, "lower")
    assert now + gain * (x - now) == pytest.approx(wanted, abs=1e-12)
    assert fresh**2 == pytest.approx(left, abs=1e-12)
    assert step(t, s, k, "upper") == pytest.approx(
        (gain, k * (t - s) ** 0.5 if s else 0.0), abs=1e-15
    )


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_3_the_uniform_grid_is_the_harmonic_step_size(steps: int) -> None:
    levels = (*power_levels(steps), 0.0)
    for n in range(steps):
        assert step(levels[n], levels[n + 1], 0.3, "upper")[0] == pytest.approx(
            1 / (steps - n), rel=1e-12
        )
    assert step(levels[-2], 0.0, 0.3, "upper") == step(levels[-2], 0.0, 0.3, "lower") == (1.0, 0.0)


@pytest.mark.parametrize(
    "sampler", [upper(4, 0.5), uniform(3, 0.2, variance="lower"), uniform(3, solver="heun")]
)
def test_3_the_last_step_returns_the_clean_image_itself(sampler: BridgeSampler) -> None:
    asked: list[float] = []

    def clean(x: np.ndarray, t: float) -> np.ndarray:
        asked.append(t)
        return np.full_like(x, 0.123 + t)

    made = refined(sampler, clean, np.linspace(-2, 2, 7))
    np.testing.assert_array_equal(made, 0.123 + asked[-1])
    assert asked[-1] == pytest.approx(sampler.levels[-1])
    assert len(asked) == (
        2 * len(sampler.levels) - 1 if sampler.solver == "heun" else len(sampler.levels)
    )


@pytest.mark.parametrize("t", [0.01, 0.1, 0.5, 1.0])
def test_3_the_networks_target_has_unit_variance_at_every_level(t: float) -> None:
    rng = torch.Generator().manual_seed(0)
    x, gap, xi = (torch.randn(200_000, 1, generator=rng) for _ in range(3))
    spread, k = 0.7, 0.3
    coarse, levels, seen = x + spread * gap, torch.full((200_000,), t), []

    def predict(y: Tensor, asked: Tensor) -> Tensor:
        assert torch.equal(asked, levels)
        seen.append(y)
        return torch.zeros_like(y)

    loss = bridge_loss(predict, x, coarse, levels, xi, Bridge(k, spread), "scaled")
    # the bridge's X_t
    torch.testing.assert_close(seen[0], (1 - t) * x + t * coarse + k * (t * (1 - t)) ** 0.5 * xi)
    out = deviation(torch.tensor(t), spread, k)
    assert ((seen[0] - x) / out).std().item() == pytest.approx(
        1, abs=0.02
    ) and loss.item() == pytest.approx(1, abs=0.04)
    assert deviation(torch.tensor(0.0), spread, k) == 0


def test_step_sizes_of_stochastic_approximation_are_robbins_and_monro_s() -> None:
    levels = approximation_levels(50, 1.0, 2.0, 0.7)
    gains = [step(t, s, 0, "upper")[0] for t, s in pairwise(levels)]
    np.testing.assert_allclose(gains, [(n + 2) ** -0.7 for n in range(49)], rtol=1e-10)
    fresh = [step(t, s, 0.3, "upper")[1] for t, s in pairwise(levels)]
    assert fresh == sorted(fresh, reverse=True) and fresh[-1] < 0.01 * fresh[0]
    assert step(levels[-1], 0.0, 0.3, "upper") == (1.0, 0.0)


# test 5: Gaussian data


def final_deviation(sampler: BridgeSampler, s: float = 0.5, h: float = 0.8) -> float:
    """Of the result for data N(0, s^2) and draws with bandwidth h: the loop is linear, so it runs
    on coefficients.

    Place 0 is the coefficient of the coarse image, place n + 1 that of step n's fresh noise.
    """
    count = len(sampler.levels)
    x = np.zeros((1, 1, 1, count + 1))
    x[..., 0] = 1

    def debias(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        level = float(t[0]) / TIMES
        return x * s**2 / (s**2 + level**2 * h**2 + sampler.noise**2 * level * (1 - level))

    def draw(stream: str) -> np.ndarray:
        return np.eye(count + 1)[int(stream.removeprefix("step")) + 1].reshape(x.shape)

    found = sampler.refine(debias, x, {}, draw).ravel()
    return float(np.sqrt(found[0] ** 2 * (s**2 + h**2) + np.square(found[1:]).sum()))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda n: uniform(n), {1: 0.265, 5: 0.444, 10: 0.472, 20: 0.486, 50: 0.494}),
        (lambda n: uniform(n, solver="heun"), {5: 0.481, 10: 0.495, 20: 0.499}),
        (lambda n: uniform(n, solver="dpm++2m"), {5: 0.482, 10: 0.502, 20: 0.503, 50: 0.501}),
        (lambda n: uniform(n, 0.5, variance="lower"), {5: 0.415, 10: 0.447, 20: 0.467, 50: 0.483}),
        (lambda n: upper(n, 0.5), {5: 0.493, 10: 0.498, 20: 0.500, 50: 0.500}),
    ],
)
def test_5_gaussian_data_come_back_with_the_deviations_of_the_spec_s_table(
    make: Callable[[int], BridgeSampler],
    wanted: Mapping[int, float],
) -> None:
    assert {n: final_deviation(make(n)) for n in wanted} == pytest.approx(wanted, abs=1e-3)


# test 6: a mixture in one dimension

WEIGHTS, MEANS, WIDTHS = np.array([0.3, 0.7]), np.array([-1.0, 0.8]), np.array([0.15, 0.25])


def mixture(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    part = rng.choice(2, count, p=WEIGHTS)
    return np.asarray(MEANS[part] + WIDTHS[part] * rng.standard_normal(count))


def mixture_mean(x: np.ndarray, t: float, k: float, h: float = 0.8) -> np.ndarray:
    """E[x | X_t] where X_t - x is normal with variance t^2 h^2 + k^2 t (1 - t)."""
    noise = t**2 * h**2 + k**2 * t * (1 - t)
    total = WIDTHS**2 + noise
    far = x[..., None] - MEANS
    likely = WEIGHTS * np.exp(-0.5 * far**2 / total) / np.sqrt(total)
    means = MEANS + WIDTHS**2 / total * far
    return np.asarray((likely * means).sum(-1) / likely.sum(-1))


def mixture_distance(values: np.ndarray) -> float:
    """Kolmogorov-Smirnov against the mixture itself."""
    x = torch.from_numpy(np.sort(values))[:, None]
    z = (x - torch.from_numpy(MEANS)) / torch.from_numpy(WIDTHS)
    exact = (torch.special.ndtr(z) @ torch.from_numpy(WEIGHTS)).numpy()
    place = np.arange(len(values) + 1) / len(values)
    return float(max(np.abs(exact - place[:-1]).max(), np.abs(exact - place[1:]).max()))


def mixed(sampler: BridgeSampler, count: int = 100_000) -> float:
    rng = np.random.default_rng(1)
    coarse = mixture(count) + 0.8 * rng.standard_normal(count)
    return mixture_distance(
        refined(sampler, lambda x, t: mixture_mean(x, t, sampler.noise), coarse)
    )


def test_6_a_mixture_comes_back() -> None:
    rng = np.random.default_rng(1)
    before = mixture_distance(mixture(100_000) + 0.8 * rng.standard_normal(100_000))
    assert before == pytest.approx(0.183, abs=0.005)
    assert mixed(uniform(20)) < 0.015
    assert mixed(upper(20, 0.3)) < 0.01


# test 7: many to one


def two_points(x: np.ndarray, t: float, k: float) -> np.ndarray:
    """E[x | X_t] of data -1 and +1 with the coarse image 0 for both."""
    if k == 0 or t == 1:  # X_t = (1 - t) x says which, X_1 = 0 nothing
        return np.sign(x)
    return np.asarray(np.tanh((1 - t) * x / (k**2 * t * (1 - t))))


def test_7_without_noise_many_to_one_stays_one_and_with_it_becomes_many() -> None:
    none = refined(uniform(20), lambda x, t: two_points(x, t, 0.0), np.zeros(1000))
    assert np.abs(none).mean() < 0.05
    for steps in (5, 10, 20):
        made = refined(upper(steps, 0.3), lambda x, t: two_points(x, t, 0.3), np.zeros(20_000))
        assert np.abs(made).mean() > 0.98, steps
        assert 0.47 < (made > 0).mean() < 0.53


# test 8: a swiss roll


def spiral(places: np.ndarray) -> np.ndarray:
    angle = 1.5 * np.pi * (1 + 2 * places)
    return np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 20


def test_8_points_return_to_the_swiss_roll_and_cover_it() -> None:
    """Median distance to the noiseless roll, and the share of it that has a point near; energy
    distance would see little.
    """
    rng, h, k = np.random.default_rng(0), 0.2, 0.3
    data = spiral(rng.random(3000)) + 0.02 * rng.standard_normal((3000, 2))
    clean, bank = torch.from_numpy(spiral(np.linspace(0, 1, 4000))), torch.from_numpy(data)
    coarse = data[:1000] + h * rng.standard_normal((1000, 2))

    def restored(x: np.ndarray, t: float) -> np.ndarray:
        return posterior_mean(
            torch.from_numpy(x), bank, (t**2 * h**2 + k**2 * t * (1 - t)) ** 0.5
        ).numpy()

    def off(points: np.ndarray) -> float:
        return float(torch.cdist(torch.from_numpy(points), clean).amin(1).median())

    made = refined(upper(5, k), restored, coarse)
    assert off(coarse) == pytest.approx(0.102, abs=0.005)
    assert off(made) == pytest.approx(0.0085, abs=0.002)
    assert (torch.cdist(clean, torch.from_numpy(made)).amin(1) < 0.05).float().mean() > 0.97


# test 9: more steps


def test_9_more_steps_do_not_harm_and_one_step_is_the_one_shot_restorer() -> None:
    found = [mixed(upper(n, 0.3), 20_000) for n in (1, 2, 5, 20)]
    assert all(b <= 1.05 * a for a, b in pairwise(found)), found
    coarse = mixture(1000) * 1.3
    np.testing.assert_array_equal(
        refined(upper(1, 0.3), lambda x, t: mixture_mean(x, t, 0.3), coarse),
        mixture_mean(coarse, 1.0, 0.3),
    )


# the sampler as data


def test_a_whole_pass_is_the_same_in_numpy_and_torch_and_after_json() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    fresh = {s: rng.standard_normal(x.shape).astype(np.float32) for s in ("pick", "step0", "step1")}
    seen: list[Any] = []

    def coarse(x: Any, pick: Any, label: Any) -> Any:
        seen.append(pick)
        return x * 0.5 + pick[:, :1, None, None] + label[:, :1, None, None]

    def debias(x: Any, t: Any, label: Any, coarse: Any) -> Any:
        return 0.7 * x + t[:, None, None, None] * 1e-4 + 0.1 * coarse

    call: dict[str, Callable[..., Any]] = {"coarse": coarse, "debias": debias}
    label = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    sampler = BridgeSampler(power_levels(3, 2.0), 0.3, restore=True)
    assert sampler_from_json(json.loads(json.dumps(sampler_to_json(sampler)))) == sampler
    made = sampler(call, x, {"label": label}, fresh.__getitem__)
    assert made.dtype == np.float32 and made.shape == x.shape and np.abs(made).max() <= 1
    other = sampler(
        call,
        torch.from_numpy(x),
        {"label": torch.from_numpy(label)},
        lambda s: torch.from_numpy(fresh[s]),
    )
    np.testing.assert_allclose(other.numpy(), made, atol=1e-6)
    pick = seen[0]
    assert pick.shape == (4, 3) and (pick > 0).all() and (pick < 1).all()
    np.testing.assert_allclose(seen[1].numpy(), pick, rtol=1e-6)


def test_what_chooses_an_exemplar_is_uniform() -> None:
    seen: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((50_000, 1, 2, 3)).astype(np.float32)

    def coarse(x: np.ndarray, pick: np.ndarray) -> np.ndarray:
        seen.append(pick)
        return x

    BridgeSampler(())({"coarse": coarse}, draw, {}, lambda _: draw)
    for column in np.sort(seen[0], axis=0).T:
        assert np.abs(column - np.arange(50_000) / 50_000).max() < 0.01


def test_without_levels_the_coarse_image_is_the_result() -> None:
    x = np.full((2, 3, 8, 8), 3.0, np.float32)
    sampler = BridgeSampler(())
    assert sampler.timesteps == UNTIMED
    np.testing.assert_array_equal(
        sampler({"coarse": lambda x, pick: x}, x, {}, lambda _: x), np.ones_like(x)
    )


def test_timesteps_are_what_the_graph_is_told() -> None:
    """Calibration counts samples by the float32 that goes in: every level must be found, however
    it rounds.
    """

    def note(told: list[float], x: np.ndarray, t: np.ndarray) -> np.ndarray:
        told.append(float(t[0]))
        return x

    for steps in (3, 7, 20, 29, 100):
        for power in (1.0, 2.0, 1.7):
            told: list[float] = []
            sampler = BridgeSampler(power_levels(steps, power), 0.0)
            sampler.refine(
                partial(note, told), np.zeros((1, 1, 1, 1), np.float32), {}, lambda _: np.zeros(0)
            )
            assert tuple(told) == sampler.timesteps


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"levels": (0.9, 0.5)}, "the first level must be 1"),
        ({"levels": (1.0, 0.5, 0.5)}, "levels must fall and stay above 0"),
        ({"levels": (1.0, float("nan"))}, "levels must fall"),
        ({"levels": (1.0, 0.0)}, "levels must fall and stay above 0"),
        ({"noise": -0.1}, "noise must be in"),
        ({"noise": float("nan")}, "noise must be in"),
        ({"solver": "heun"}, "Heun's solver is for noise 0"),
        ({"variance": "middle"}, "unknown variance 'middle'"),
        ({"kind": "cascade"}, "unknown"),
    ],
)
def test_a_sampler_that_means_nothing_is_refused(change: dict[str, Any], text: str) -> None:
    data = {"levels": (1.0, 0.5), "noise": 0.3, **change}
    with pytest.raises(ValueError, match=text):
        BridgeSampler(**data)
    with pytest.raises(TrustError, match="cannot be used"):
        sampler_from_json({"kind": "bridge", **data})


@pytest.mark.parametrize("arguments", [(0, 1.0), (2000, 1.0), (5, 0.0), (5, float("nan"))])
def test_a_grid_that_cannot_be_is_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="steps must be"):
        power_levels(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [(0, 1.0, 2.0, 1.0), (5, 1.0, 1.0, 1.0), (5, 0.5, 2.0, 0.5), (5, float("nan"), 2.0, 1.0)],
)
def test_step_sizes_that_do_not_converge_are_refused(
    arguments: tuple[int, float, float, float],
) -> None:
    with pytest.raises(ValueError, match="decay in"):
        approximation_levels(*arguments)
