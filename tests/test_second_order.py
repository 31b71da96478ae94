"""The solver of second order: DPM-Solver++(2M) in every diffusion sampler, as the paper and
diffusers have it, and how fast it gets to the end of a flow that is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.samplers import (
    BridgeSampler,
    CascadeSampler,
    LatentDdimSampler,
    Sampler,
    alphas_bar,
    lookahead,
    mean_gates,
    power_levels,
    sampler_from_json,
    sampler_to_json,
    stopped,
    trailing,
)
from edgegen.errors import TrustError

BAR = alphas_bar("cosine", 1000)


def levels(steps: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    timesteps = trailing(1000, steps)
    return timesteps, tuple(float(BAR[t]) for t in timesteps)


def cascade(steps: int = 8, solver: str = "dpm++2m", **other: Any) -> CascadeSampler:
    return CascadeSampler(*levels(steps), solver=solver, **other)


def latent(steps: int = 8, solver: str = "dpm++2m", **other: Any) -> LatentDdimSampler:
    return LatentDdimSampler(*levels(steps), solver=solver, **other)


def bridge(steps: int = 8, solver: str = "dpm++2m") -> BridgeSampler:
    return BridgeSampler(power_levels(steps, 2.0), 0.0, solver=solver)


def nothing_drawn(stream: str) -> NoReturn:
    pytest.fail("the solver draws no noise between steps")


def calls(library: Any) -> dict[str, Callable[..., Any]]:
    """Smooth networks that ask for every input, on numpy arrays and torch tensors."""

    def theta(x: Any, t: Any) -> Any:
        return library.sin(2 * x) + 1e-3 * t[:, None, None, None]

    def phi(coarse: Any, x: Any, t: Any) -> Any:
        gate = 1 / (1 + library.exp(-x[:, :1]))
        join = np.concatenate if library is np else torch.cat
        return join([coarse + 0.1 * library.cos(x), gate], 1)

    def end(x: Any, **others: Any) -> Any:
        return 0.3 * x

    return {
        "theta": theta,
        "denoiser": theta,
        "phi": phi,
        "decoder": end,
        "coarse": lambda x, pick: 0.5 * x,
        "debias": lambda x, t: library.tanh(x + 1e-3 * t[:, None, None, None]),
    }


def pick(library: Any) -> Callable[[str], Any]:
    """The draw that chooses a kernel, and no other."""

    def draw(stream: str) -> Any:
        return library.zeros((3, 2, 4, 4)) if stream == "pick" else nothing_drawn(stream)

    return draw


def paper(
    clean_of: Callable[[Any, int], Any], x: Any, alphas: Sequence[float], sigmas: Sequence[float]
) -> list[Any]:
    """Algorithm 2 of Lu et al. 2022 as it is written there, from the first level to the last: the
    clean image at each.
    """
    lam = [float(np.log(a / s)) for a, s in zip(alphas, sigmas, strict=True)]
    clean = [clean_of(x, 0)]
    for i in range(1, len(lam)):
        h = lam[i] - lam[i - 1]
        ahead = clean[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            ahead = (1 + 1 / (2 * r)) * clean[-1] - 1 / (2 * r) * clean[-2]
        x = sigmas[i] / sigmas[i - 1] * x - alphas[i] * (np.exp(-h) - 1) * ahead
        clean.append(clean_of(x, i))
    return clean


def start() -> Any:
    return np.random.default_rng(0).standard_normal((3, 2, 4, 4))


def test_the_cascade_is_algorithm_2_of_the_paper() -> None:
    sampler, x = cascade(path="dynamic"), start()
    call = calls(np)
    alphas = [s**0.5 for s in sampler.signal]
    sigmas = [(1 - s) ** 0.5 for s in sampler.signal]

    def clean_of(x: Any, k: int) -> Any:
        t = x[:, 0, 0, 0] * 0 + sampler.timesteps[k]
        coarse = (alphas[k] * x - sigmas[k] * call["theta"](x, t)).clip(-1, 1)
        out = call["phi"](coarse, x, t)
        return coarse + out[:, -1:] * (out[:, :-1] - coarse)

    wanted = paper(clean_of, x, alphas, sigmas)[-1].clip(-1, 1)
    found = sampler(call, x, {}, nothing_drawn)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    plain = cascade(solver="ddim", path="dynamic")(call, x, {}, nothing_drawn)
    assert np.abs(found - plain).max() > 1e-2


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_teacher_is_algorithm_2_of_the_paper(prediction: str) -> None:
    sampler, x = latent(prediction=prediction), start()
    call = calls(np)
    alphas = [s**0.5 for s in sampler.signal]
    sigmas = [(1 - s) ** 0.5 for s in sampler.signal]

    def clean_of(x: Any, k: int) -> Any:
        out = call["theta"](x, x[:, 0, 0, 0] * 0 + sampler.timesteps[k])
        a, s = alphas[k], sigmas[k]
        return a * x - s * out if prediction == "v" else (x - s * out) / a

    wanted = call["decoder"](paper(clean_of, x, alphas, sigmas)[-1]).clip(-1, 1)
    np.testing.assert_allclose(sampler(call, x, {}, nothing_drawn), wanted, atol=1e-7)


def test_the_bridge_is_algorithm_2_of_the_paper() -> None:
    sampler, x = bridge(), start()
    call = calls(np)

    def clean_of(x: Any, k: int) -> Any:
        return call["debias"](x, x[:, 0, 0, 0] * 0 + 1000 * sampler.levels[k])

    wanted = paper(clean_of, 0.5 * x, [1.0] * len(sampler.levels), sampler.levels)[-1].clip(-1, 1)
    np.testing.assert_allclose(sampler(call, x, {}, pick(np)), wanted, atol=1e-9)
    assert len(sampler.levels) == len(sampler.timesteps)  # one call a step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize("steps", [6, 10, 20])
def test_cascade_and_teacher_are_diffusers_multistep(steps: int) -> None:
    """With the same denoiser inside, the same timesteps and the same abar."""
    from diffusers import DPMSolverMultistepScheduler

    call, x = calls(torch), torch.from_numpy(start())
    for sampler in (cascade(steps, path="eps"), latent(steps)):
        theirs = DPMSolverMultistepScheduler(
            1000,
            solver_order=2,
            algorithm_type="dpmsolver++",
            solver_type="midpoint",
            prediction_type="sample",
            lower_order_final=steps < 15,
            final_sigmas_type="zero",
        )
        theirs.set_timesteps(steps)
        theirs.timesteps = torch.tensor(sampler.timesteps)
        sigmas = [((1 - s) / s) ** 0.5 for s in sampler.signal]
        theirs.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
        at = x
        for t, now in zip(sampler.timesteps, sampler.signal, strict=True):
            out = call["theta"](at, at[:, 0, 0, 0] * 0 + t)
            clean = now**0.5 * at - (1 - now) ** 0.5 * out
            clean = clean.clip(-1, 1) if sampler.kind == "cascade" else clean
            at = theirs.step(clean, torch.tensor(t), at).prev_sample
        wanted = at if sampler.kind == "cascade" else call["decoder"](at)
        found = sampler(call, x, {}, nothing_drawn)
        torch.testing.assert_close(found, wanted.clip(-1, 1), atol=1e-5, rtol=0)


# how fast


def gaussian_end(sampler: Sampler, deviation: float = 0.5, x: float = 0.3) -> float:
    """Error of the clean image at the last level, where the data are a Gaussian of that deviation:
    its clean image is known at every level, and so is the flow.
    """
    alphas, sigmas = _levels_of(sampler)

    def clean(value: Any, k: int) -> Any:
        a, s = alphas[k], sigmas[k]
        return a * deviation**2 / (a * a * deviation**2 + s * s) * value

    told, seen = list(sampler.timesteps), 0

    def network(x: Any, t: Any, **_: Any) -> Any:
        nonlocal seen
        k = int(np.argmin(np.abs(np.array(told) - float(t[0]))))
        seen += 1
        a, s = alphas[k], sigmas[k]
        known = clean(x, k)
        return known if isinstance(sampler, BridgeSampler) else (a * x - known) / s

    call: dict[str, Any] = dict.fromkeys(("theta", "denoiser", "debias"), network)
    call |= {"decoder": lambda x: x, "coarse": lambda x, pick: x}
    given = np.full((1, 2, 4, 4), x)
    found = sampler(call, given, {}, lambda _: np.zeros((1, 2, 4, 4)))
    assert seen == len(told)

    def spread(k: int) -> float:
        return float((alphas[k] ** 2 * deviation**2 + sigmas[k] ** 2) ** 0.5)

    last = len(told) - 1
    wanted = clean(x * spread(last) / spread(0), last)
    return abs(float(found.flat[0]) - float(wanted))


def _levels_of(sampler: Sampler) -> tuple[list[float], list[float]]:
    if isinstance(sampler, BridgeSampler):
        return [1.0] * len(sampler.levels), list(sampler.levels)
    signal: Sequence[float] = sampler.signal  # type: ignore[attr-defined]
    return [s**0.5 for s in signal], [(1 - s) ** 0.5 for s in signal]


def even(kind: str, solver: str, steps: int) -> Sampler:
    """Levels at equal distances in log-SNR, from the same first to the same last one."""
    logits = np.linspace(-4, 4, steps)
    if kind == "bridge":
        levels = tuple(np.exp(-np.linspace(0, 3, steps)))
        return BridgeSampler((1.0, *levels[1:]), 0.0, solver={"ddim": "euler"}.get(solver, solver))
    timesteps = tuple(range(steps, 0, -1))
    signal = tuple(1 / (1 + np.exp(-logits)))
    if kind == "cascade":
        return CascadeSampler(timesteps, signal, "v", "eps", solver=solver)
    return LatentDdimSampler(timesteps, signal, "v", solver=solver)


@pytest.mark.parametrize("kind", ["cascade", "latent", "bridge"])
def test_its_error_falls_at_second_order_where_ddim_s_falls_at_first(kind: str) -> None:
    counts = (32, 64, 128)
    first = [gaussian_end(even(kind, "ddim", n)) for n in counts]
    second = [gaussian_end(even(kind, "dpm++2m", n)) for n in counts]
    assert all(1.7 < a / b < 2.4 for a, b in pairwise(first)), first
    assert all(3.6 < a / b < 4.4 for a, b in pairwise(second)), second
    assert second[-1] < first[-1] / 10


# as data


@pytest.mark.parametrize("sampler", [cascade(path="dynamic"), latent(), bridge()])
def test_numpy_and_torch_agree_and_a_batch_is_its_images(sampler: Any) -> None:
    x = start()
    images = sampler(calls(np), x, {}, pick(np))
    again = sampler(calls(torch), torch.from_numpy(x), {}, pick(torch))
    np.testing.assert_allclose(images, again.numpy(), atol=1e-9)
    assert np.isfinite(images).all() and np.abs(images).max() <= 1 and images.std() > 0.05
    short = x.astype(np.float32)
    single = sampler(calls(np), short, {}, lambda s: pick(np)(s).astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, images, atol=1e-4)


OLD = {
    "cascade": '{"timesteps": [60, 30], "signal": [0.25, 0.5], "prediction": "v", "path": "dynamic"'
    ', "gates": [], "eta": 0.0, "window": null, "kind": "cascade"}',
    "latent": '{"timesteps": [60, 30], "signal": [0.25, 0.5], "prediction": "v", "guidance": 1.0, '
    '"kind": "latent-ddim"}',
    "bridge": '{"levels": [1.0, 0.5], "noise": 0.0, "variance": "upper", "solver": "euler", '
    '"restore": false, "kind": "bridge"}',
}


@pytest.mark.parametrize("kind", OLD)
def test_what_manifests_of_before_hold_is_read_and_written_as_before(kind: str) -> None:
    sampler = sampler_from_json(json.loads(OLD[kind]))
    assert json.dumps(sampler_to_json(sampler)) == OLD[kind]
    new = sampler_from_json({**json.loads(OLD[kind]), "solver": "dpm++2m"})
    assert new != sampler
    data = json.loads(json.dumps(sampler_to_json(new), allow_nan=False))
    assert data["solver"] == "dpm++2m" and sampler_from_json(data) == new


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"solver": "euler"}, "unknown solver 'euler'; known: ddim, dpm\\+\\+2m"),
        ({"solver": None}, "unknown solver None"),
        ({"solver": ["ddim"]}, "unknown solver"),
    ],
)
@pytest.mark.parametrize("kind", ["cascade", "latent"])
def test_a_solver_that_cannot_run_is_refused_in_words(
    kind: str, data: dict[str, Any], text: str
) -> None:
    with pytest.raises(TrustError, match=text):
        sampler_from_json({**json.loads(OLD[kind]), **data})


def test_places_that_are_not_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="too close to each other for the solver dpm"):
        lookahead("dpm++2m", [0.0, 1.0, 1.0])
    assert lookahead("ddim", [0.0, 1.0, 1.0]) == (0, 0, 0)
    assert lookahead("dpm++2m", [0.0, 2.0, 3.0, 5.0]) == (0, 0.25, 1.0, 0)
    assert lookahead("dpm++2m", [1.0]) == (0,) and lookahead("dpm++2m", []) == ()


def test_fresh_noise_and_the_solver_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"draws no noise between steps: it takes eta 0, got 0\.5"):
        cascade(eta=0.5)
    with pytest.raises(ValueError, match=r"dpm\+\+2m is for noise 0 \(an ODE\), got noise 0\.3"):
        BridgeSampler((1.0, 0.5), 0.3, solver="dpm++2m")


@given(st.integers(1, 60), st.integers(0, 2**32))
def test_any_number_of_steps_gives_finite_images(steps: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((1, 2, 4, 4))
    images = cascade(steps, path="eps")(calls(np), x, {}, nothing_drawn)
    assert np.isfinite(images).all() and np.abs(images).max() <= 1
    if steps <= 2:
        plain = cascade(steps, "ddim", path="eps")(calls(np), x, {}, nothing_drawn)
        np.testing.assert_array_equal(images, plain)


@pytest.mark.parametrize("kind", ["cascade", "latent", "bridge"])
def test_a_stopped_one_ends_with_the_clean_image_that_the_whole_has_there(kind: str) -> None:
    """Of a step that looks ahead from the one before."""
    whole: Any = {"cascade": cascade(path="eps"), "latent": latent(), "bridge": bridge()}[kind]
    x, seen = start(), list[Any]()

    def noting(name: str) -> Callable[..., Any]:
        def call(**inputs: Any) -> Any:
            out = calls(np)[name](**inputs)
            if name in ("theta", "denoiser", "debias"):
                seen.append((inputs["x"].copy(), out))
            return out

        return call

    call = {name: noting(name) for name in calls(np)}
    whole(call, x, {}, pick(np))
    all_of_it, steps = list(seen), len(whole.timesteps)
    assert stopped(whole, steps) == whole
    for few in (1, 2, 5):
        seen.clear()
        part: Any = stopped(whole, few)
        assert part.solver == "dpm++2m" and part.timesteps == whole.timesteps[:few]
        images = part(call, x, {}, pick(np))
        assert len(seen) == few
        for (ours, _), (theirs, _) in zip(seen, all_of_it, strict=False):
            np.testing.assert_array_equal(ours, theirs)
        at, out = all_of_it[few - 1]
        if kind != "bridge":
            now = whole.signal[few - 1]
            out = now**0.5 * at - (1 - now) ** 0.5 * out
        out = 0.3 * out if kind == "latent" else out
        np.testing.assert_allclose(images, out.clip(-1, 1), atol=1e-12)


def test_mean_gates_follow_the_solver() -> None:
    sampler = cascade(path="dynamic")
    gates = mean_gates(sampler, calls(np), start(), {}, nothing_drawn)
    plain = mean_gates(cascade(solver="ddim"), calls(np), start(), {}, nothing_drawn)
    assert gates[:2] == plain[:2] and gates[-1] != plain[-1]
