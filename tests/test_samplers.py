"""Schedules and the cascade sampler as data: validation, JSON, and the same images from numpy and
torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.samplers import (
    BridgeSampler,
    Call,
    CascadeSampler,
    ConsistencySampler,
    Sampler,
    SingleSampler,
    alphas_bar,
    clean_image,
    mean_gates,
    sampler_from_json,
    sampler_to_json,
    stopped,
    trailing,
)
from edgegen.errors import TrustError

GOOD: dict[str, Any] = {"timesteps": (1000, 500), "signal": (0.001, 0.4)}


@pytest.mark.parametrize(
    ("schedule", "steps", "last"),
    [
        ("linear", 1000, 4.0e-5),
        ("linear", 4000, 4.2e-5),
        ("cosine", 1000, 2.4e-9),
    ],
)
def test_schedules_are_those_of_c_2_1(schedule: str, steps: int, last: float) -> None:
    bar = alphas_bar(schedule, steps)
    assert bar.shape == (steps + 1,) and bar.dtype == np.float64 and bar[0] == 1
    assert (np.diff(bar) < 0).all() and bar[-1] == pytest.approx(last, rel=0.05)
    beta = 1 - bar[1:] / bar[:-1]
    if schedule == "linear":
        np.testing.assert_allclose(beta[[0, -1]], np.array([1e-4, 0.02]) * 1000 / steps, rtol=1e-9)
    else:
        u = (np.arange(steps) / steps + 0.008) / 1.008
        np.testing.assert_allclose(
            bar[:-1], np.cos(u * np.pi / 2) ** 2 / np.cos(u[0] * np.pi / 2) ** 2, rtol=1e-9
        )
        assert beta.max() == pytest.approx(0.999)


def test_error_amplification_is_that_of_c_2_3() -> None:
    bar = alphas_bar("linear", 1000)
    for t, wanted in ((1, 0.01), (100, 0.34), (500, 3.4), (1000, 157)):
        assert ((1 - bar[t]) / bar[t]) ** 0.5 == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: alphas_bar("square", 10), "unknown schedule 'square'; known: cosine, ldm, linear"),
        (
            lambda: alphas_bar("linear", 20),
            "the linear schedule needs more than 20 timesteps, got 20",
        ),
        (lambda: trailing(10, 0), "steps must be between 1 and 10, got 0"),
        (lambda: trailing(10, 11), "steps must be between 1 and 10, got 11"),
    ],
)
def test_schedules_refuse(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


@given(st.integers(1, 4000), st.data())
def test_timesteps_fall_from_pure_noise_and_stay_above_zero(
    timesteps: int, data: st.DataObject
) -> None:
    steps = data.draw(st.integers(1, min(timesteps, 300)) | st.just(timesteps))
    found = trailing(timesteps, steps)
    assert len(found) == steps and found[0] == timesteps and found[-1] >= 1
    assert all(a > b for a, b in pairwise(found))


def test_timesteps_are_evenly_spaced() -> None:
    assert trailing(1000, 4) == (1000, 750, 500, 250)
    assert trailing(5, 5) == (5, 4, 3, 2, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"path": "best"}, "unknown path 'best', prediction 'v' or kind 'cascade'"),
        ({"prediction": "x0"}, "prediction 'x0'"),
        ({"kind": "euler"}, "kind 'euler'"),
        ({"timesteps": (), "signal": ()}, "0 timesteps but 0 signal levels"),
        ({"timesteps": (3,)}, "1 timesteps but 2 signal levels"),
        ({"timesteps": (500, 500)}, r"timesteps must fall and stay above 0, got \(500, 500\)"),
        ({"timesteps": (500, 0)}, "stay above 0"),
        (
            {"signal": (0.4, 0.001)},
            r"signal levels must rise as the timesteps fall, got \(0.4, 0.001\)",
        ),
        ({"signal": (0.0, 0.5)}, r"signal levels must be in \(0, 1\) and eta in \[0, 1\]"),
        ({"signal": (0.5, 1.0)}, "signal levels must be in"),
        ({"signal": (0.1, float("nan"))}, "signal levels must be in"),
        ({"eta": 1.5}, "eta in"),
        ({"eta": float("nan")}, "eta in"),
        ({"path": "fixed"}, 'path "fixed" needs a gate for each of 2 timesteps, got 0'),
        ({"path": "fixed", "gates": (0.5, float("nan"))}, r"gates must be in \[0, 1\], got"),
        ({"path": "fixed", "gates": (0.5, 1.5)}, "gates must be in"),
    ],
)
def test_a_sampler_that_cannot_run_is_refused_in_words(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CascadeSampler(**{**GOOD, **change})


def built(path: str, prediction: str, eta: float, steps: int = 7) -> CascadeSampler:
    timesteps, bar = trailing(100, steps), alphas_bar("cosine", 100)
    gates = tuple(k / steps for k in range(steps)) if path == "fixed" else ()
    return CascadeSampler(
        timesteps, tuple(float(bar[t]) for t in timesteps), prediction, path, gates, eta
    )


@pytest.mark.parametrize("path", ["dynamic", "eps", "x0", "fixed"])
def test_json_round_trip_is_exact(path: str) -> None:
    sampler = built(path, "v", 0.3)
    text = json.dumps(sampler_to_json(sampler), allow_nan=False)
    again = sampler_from_json(json.loads(text))
    assert again == sampler and again.kind == "cascade"
    assert json.dumps(sampler_to_json(again)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "euler"},
        {"kind": ["cascade"]},
        {"kind": None},
        {"extra": 1},
        {"timesteps": 5},
        {"timesteps": "ab"},
        {"timesteps": [1, 2]},
        {"signal": [0.5]},
        {"signal": None},
        {"signal": ["a", "b"]},
        {"eta": "much"},
        {"eta": None},
        {"path": []},
        {"path": {"a": 1}},
        {"gates": 3},
    ],
)
def test_a_manifest_that_does_not_fit_is_not_trusted(change: dict[str, Any]) -> None:
    data = {**sampler_to_json(CascadeSampler(**GOOD)), **change}
    with pytest.raises(TrustError, match="the sampler in the manifest") as caught:
        sampler_from_json(json.loads(json.dumps(data)))
    assert caught.value.code == "E-MANIFEST"


@pytest.mark.parametrize("data", [[], "cascade", None, 5, {}])
def test_a_manifest_without_a_sampler(data: Any) -> None:
    with pytest.raises(TrustError, match="the sampler in the manifest"):
        sampler_from_json(data)


def networks(library: Any) -> dict[str, Any]:
    """The same smooth functions on numpy arrays and torch tensors."""
    join = (
        (lambda parts: np.concatenate(parts, axis=1))
        if library is np
        else (lambda parts: torch.cat(parts, dim=1))
    )

    def phi(coarse: Any, x: Any, t: Any, label: Any) -> Any:
        delta = 0.1 * library.sin(x + label[:, :1, None, None])
        return join(
            [coarse + delta, 1 / (1 + library.exp(-x[:, :1] - 0.01 * t[:, None, None, None]))]
        )

    def theta(x: Any, t: Any, label: Any) -> Any:
        return library.sin(2 * x) + 0.01 * t[:, None, None, None] * label[:, :1, None, None]

    return {"theta": theta, "phi": phi}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("path", ["dynamic", "eps", "x0", "fixed"])
def test_numpy_and_torch_give_the_same_images(path: str, prediction: str, eta: float) -> None:
    sampler, rng = built(path, prediction, eta), np.random.default_rng(0)
    x, label = rng.standard_normal((3, 2, 4, 4)), np.eye(3)
    fresh = {f"step{k}": rng.standard_normal(x.shape) for k in range(6)}
    asked: list[str] = []

    def draw(stream: str) -> Any:
        asked.append(stream)
        return fresh[stream]

    before = x.copy()
    images = sampler(networks(np), x, {"label": label}, draw)
    torch_label = {"label": torch.from_numpy(label)}
    again = sampler(
        networks(torch), torch.from_numpy(x), torch_label, lambda s: torch.from_numpy(fresh[s])
    )
    np.testing.assert_allclose(images, again.numpy(), atol=1e-9)
    assert images.shape == x.shape and np.abs(images).max() <= 1 and images.std() > 0.1
    assert asked == ([f"step{k}" for k in range(6)] if eta else [])  # none at the last step
    assert np.array_equal(x, before)
    single = sampler(
        {k: networks(np)[k] for k in ("theta", "phi")},
        x[1:2],
        {"label": label[1:2]},
        lambda s: fresh[s][1:2],
    )
    np.testing.assert_allclose(single, images[1:2], atol=1e-9)


def test_float32_stays_float32() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    seen: list[Any] = []

    def theta(x: Any, t: Any) -> Any:
        seen.append((x.dtype, t.dtype, t.shape, t[0]))
        return x * 0

    sampler = built("eps", "v", 1.0)
    images = sampler({"theta": theta}, x, {}, lambda _: x)
    assert images.dtype == np.float32
    assert seen == [(np.float32, np.float32, (1,), t) for t in sampler.timesteps]


def test_each_path_asks_what_it_needs_and_mixes_as_it_says() -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 2, 2))
    coarse, refined, gate = 0.5, -0.25, 0.2
    bar = alphas_bar("cosine", 100)

    def run(path: str, gates: tuple[float, ...] = ()) -> Any:
        now = float(bar[60])
        call: dict[str, Any] = {"theta": lambda x, t: (x - now**0.5 * coarse) / (1 - now) ** 0.5}
        if path != "eps":
            call["phi"] = lambda coarse, x, t: np.concatenate(
                [x * 0 + refined, x * 0 + gate], axis=1
            )
        return CascadeSampler((60,), (now,), "epsilon", path, gates)(call, x, {}, lambda _: x)

    np.testing.assert_allclose(run("eps"), coarse)
    np.testing.assert_allclose(run("x0"), refined)
    np.testing.assert_allclose(run("dynamic"), gate * refined + (1 - gate) * coarse)
    np.testing.assert_allclose(run("fixed", (0.7,)), 0.7 * refined + 0.3 * coarse)


def test_mean_gates_are_what_phi_said_and_reproduce_a_constant_gate() -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    call: Call[np.ndarray] = {
        "theta": lambda x, t: np.sin(x),
        "phi": lambda coarse, x, t: np.concatenate(
            [coarse * 0.9, x * 0 + t[:, None, None, None] / 200], axis=1
        ),
    }
    sampler = built("dynamic", "v", 0.0)
    gates = mean_gates(sampler, call, x, {}, lambda _: x)
    np.testing.assert_allclose(gates, [t / 200 for t in sampler.timesteps])
    fixed = CascadeSampler(sampler.timesteps, sampler.signal, "v", "fixed", gates)
    np.testing.assert_allclose(
        fixed(call, x, {}, lambda _: x), sampler(call, x, {}, lambda _: x), atol=1e-12
    )
    assert mean_gates(fixed, call, x, {}, lambda _: x) == gates


@given(
    st.integers(2, 60),
    st.floats(0, 1),
    st.sampled_from(["linear", "cosine"]),
    st.integers(0, 2**32),
)
def test_any_schedule_gives_real_finite_images(
    steps: int, eta: float, schedule: str, seed: int
) -> None:
    bar, timesteps = alphas_bar(schedule, 4000), trailing(4000, steps)
    sampler = CascadeSampler(timesteps, tuple(bar[list(timesteps)]), "epsilon", "eps", eta=eta)
    rng, shape = np.random.default_rng(seed), (1, 1, 2, 2)
    images = sampler(
        {"theta": lambda x, t: np.sin(x)},
        rng.standard_normal(shape),
        {},
        lambda _: rng.standard_normal(shape),
    )
    assert not np.iscomplexobj(images) and np.isfinite(images).all() and np.abs(images).max() <= 1


def test_v_and_epsilon_describe_the_same_clean_image() -> None:
    rng = np.random.default_rng(0)
    clean, eps = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((2, 3, 4, 4))
    for bar in (0.999, 0.5, 1e-4):
        x = bar**0.5 * clean + (1 - bar) ** 0.5 * eps
        np.testing.assert_allclose(clean_image(x, eps, bar, "epsilon"), clean, atol=1e-9)
        np.testing.assert_allclose(
            clean_image(x, bar**0.5 * eps - (1 - bar) ** 0.5 * clean, bar, "v"), clean, atol=1e-9
        )


# one call


def test_a_single_call_chains_its_graphs_on_numpy_and_torch() -> None:
    sampler, x = (
        SingleSampler(("first", "second")),
        np.random.default_rng(0).standard_normal((3, 4)),
    )
    call: dict[str, Callable[..., Any]] = {
        "first": lambda x, label: x + label,
        "second": lambda x: 2 * x[:, :, None, None],
    }

    def draw(stream: str) -> NoReturn:
        pytest.fail("no noise but the start")

    images = sampler(call, x, {"label": np.ones((3, 1))}, draw)
    np.testing.assert_array_equal(images, (2 * (x + 1)).clip(-1, 1)[:, :, None, None])
    again = sampler(call, torch.from_numpy(x), {"label": torch.ones(3, 1)}, draw)
    np.testing.assert_allclose(again.numpy(), images)
    assert sampler.timesteps == (0,) and len(sampler.timesteps) == 1


def test_a_single_sampler_survives_the_manifest_and_refuses_nonsense() -> None:
    sampler = SingleSampler(("mapping", "synthesis"))
    assert sampler_from_json(json.loads(json.dumps(sampler_to_json(sampler)))) == sampler
    changes: list[dict[str, Any]] = [
        {"graphs": "ab"},
        {"graphs": []},
        {"graphs": [1]},
        {"kind": "cascade"},
        {"timesteps": [1]},
    ]
    for change in changes:
        with pytest.raises(TrustError, match="the sampler in the manifest"):
            sampler_from_json({**sampler_to_json(sampler), **change})


@pytest.mark.parametrize(
    "sampler",
    [
        CascadeSampler((1000, 600, 200), (0.001, 0.4, 0.9), path="fixed", gates=(0.1, 0.2, 0.3)),
        BridgeSampler((1.0, 0.5, 0.2)),
        ConsistencySampler((999, 500, 100), (0.001, 0.4, 0.9)),
        SingleSampler(("a", "b")),
    ],
    ids=lambda s: s.kind,
)
def test_a_stopped_sampler_asks_what_the_whole_one_asks_first(sampler: Sampler) -> None:
    """And all of its steps are the sampler itself."""
    assert stopped(sampler, len(sampler.timesteps)) == sampler
    few = stopped(sampler, 1)
    assert few.timesteps == sampler.timesteps[:1]
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4))

    def asked(which: Sampler) -> list[Any]:
        seen: list[Any] = []

        def call(**inputs: Any) -> Any:
            seen.append((sorted(inputs), inputs["x"].copy(), inputs.get("t")))
            return (
                np.concatenate([inputs["x"], inputs["x"][:, :1]], 1) * 0.5
                if "coarse" in inputs
                else inputs["x"] * 0.5
            )

        names = ("theta", "phi", "coarse", "debias", "denoiser", "decoder", "a", "b")
        which(dict.fromkeys(names, call), x, {}, lambda _: noise)
        return seen

    whole, part = asked(sampler), asked(few)
    assert 0 < len(part) <= len(whole)
    for (names, x_seen, t), (other, x_whole, t_whole) in list(zip(part, whole, strict=False))[:1]:
        assert names == other and np.array_equal(x_seen, x_whole) and np.array_equal(t, t_whole)
    for steps in (0, len(sampler.timesteps) + 1):
        with pytest.raises(
            ValueError, match=f"the sampler has {len(sampler.timesteps)} steps, got {steps}"
        ):
            stopped(sampler, steps)
