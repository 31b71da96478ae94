"""The sampler that expresses solvers as weights: guidance, what graphs are given, and what is
refused. What each solver's weights give, tests/test_bring_schedule.py holds to diffusers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgegen.core.samplers import MultistepSampler, sampler_from_json, sampler_to_json
from edgegen.errors import TrustError

GOOD: dict[str, Any] = {
    "timesteps": (500.0, 250.5, 250.5),
    "clean_from_x": (2.0, 1.5, 1.0),
    "clean_from_output": (-1.0, -0.5, -0.25),
    "next_from_x": (0.5, 0.25, 0.0),
    "next_from_output": (0.125, 0.0, 0.0),
    "next_from_clean": (0.5, 0.5, 0.75),
}


def draws(stream: str) -> np.ndarray:
    return np.full((2, 3, 2, 2), 1.0 + int(stream[-1]), np.float32)


@pytest.mark.parametrize("remembers", ["clean", "output"])
def test_a_step_combines_what_the_docstring_says(remembers: Any) -> None:
    sampler = MultistepSampler(
        **GOOD,
        earlier_1=(0.0, 0.5, 0.25),
        earlier_2=(0.0, 0.0, 0.125),
        noise=(0.5, 0.0, 0.0),
        scale=(0.5, 1.0, 2.0),
        start=2.0,
        clip=0.75,
        remembers=remembers,
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32) / 4
    asked: list[str] = []

    def draw(stream: str) -> np.ndarray:
        asked.append(stream)
        return draws(stream)

    state = 2.0 * x
    kept: list[np.ndarray] = []
    for k in range(3):
        output = np.tanh(sampler.scale[k] * state)
        clean = sampler.clean_from_x[k] * state + sampler.clean_from_output[k] * output
        clean = clean.clip(-0.75, 0.75)
        then = sampler.next_from_x[k] * state + sampler.next_from_output[k] * output
        then = then + sampler.next_from_clean[k] * clean
        if k > 0:
            then = then + sampler.earlier_1[k] * kept[-1]
        if k > 1:
            then = then + sampler.earlier_2[k] * kept[-2]
        if k == 0:
            then = then + 0.5 * draws("step0")
        kept.append(clean if remembers == "clean" else output)
        state = then
    images = sampler({"denoiser": lambda x, t: np.tanh(x)}, x, {}, draw)
    np.testing.assert_allclose(images, state.clip(-1, 1), atol=1e-6)
    assert asked == ["step0"] and images.dtype == np.float32
    again = sampler(
        {"denoiser": lambda x, t: torch.tanh(x)},
        torch.from_numpy(x),
        {},
        lambda stream: torch.from_numpy(draws(stream)),
    )
    np.testing.assert_allclose(again.numpy(), images, atol=1e-6)


def test_guidance_asks_twice_and_graphs_see_no_twin() -> None:
    sampler = MultistepSampler(**GOOD, guidance=3.0, nulls=("context",), decoder=True)
    x = np.zeros((2, 3, 2, 2), np.float32)
    condition = {
        "context": np.full((2, 4), 0.25, np.float32),
        "null_context": np.full((2, 4), 0.125, np.float32),
        "label": np.ones((2, 5), np.float32),
    }
    seen: list[float] = []

    def denoiser(x: Any, t: Any, context: Any, label: Any) -> Any:
        assert label.sum() == 10 and t.dtype == np.float32
        seen.append(float(context[0, 0]))
        return x * 0 + context.mean()

    images = sampler({"denoiser": denoiser, "decoder": lambda x: x + 0.125}, x, condition, draws)
    assert seen == [0.25, 0.125] * 3
    guided = 0.125 + 3 * (0.25 - 0.125)
    once = replace(sampler, guidance=1.0, nulls=())
    same = once(
        {"denoiser": lambda x, t: x * 0 + guided, "decoder": lambda x: x + 0.125}, x, {}, draws
    )
    np.testing.assert_array_equal(images, same)
    assert np.abs(images).max() < 1 and np.abs(images).min() > 0
    seen.clear()
    replace(sampler, guidance=1.0, nulls=())(
        {"denoiser": denoiser, "decoder": lambda x: x}, x, condition, draws
    )
    assert seen == [0.25] * 3
    del condition["null_context"]
    with pytest.raises(ValueError, match="guidance needs null_context in the condition"):
        sampler({"denoiser": denoiser, "decoder": lambda x: x}, x, condition, draws)


def test_guidance_that_is_in_the_weights_is_told() -> None:
    sampler = MultistepSampler(**GOOD, embedded_guidance=7.5)
    seen: list[Any] = []

    def denoiser(x: Any, t: Any, guidance: Any) -> Any:
        seen.append(guidance)
        return x

    sampler({"denoiser": denoiser}, np.zeros((2, 3, 2, 2), np.float32), {}, draws)
    assert all(np.array_equal(g, np.full(2, 7.5, np.float32)) for g in seen) and len(seen) == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "euler"}, "unknown kind 'euler'"),
        ({"remembers": "x"}, "remembers 'x'"),
        ({name: () for name in GOOD}, "there are no timesteps"),
        ({"clean_from_x": (1.0,)}, "3 timesteps but 1 numbers in clean_from_x"),
        ({"clean_from_x": ()}, "3 timesteps but 0 numbers in clean_from_x"),
        ({"noise": (1.0,)}, "3 timesteps but 1 numbers in noise"),
        ({"noise": (1.0, float("nan"), 0.0)}, "noise holds a number that is not finite"),
        ({"noise": ("a", "b", "c")}, "must be real number"),
        ({"timesteps": (1.0, 2.0, 3.0)}, "timesteps must not rise"),
        ({"clip": -1.0}, "clip must be a number from 0 on"),
        ({"start": float("inf")}, "start must be a number from 0 on"),
        ({"guidance": 101.0}, "guidance must be at most 100, got 101"),
        ({"guidance": float("nan")}, "guidance must be at most 100, got nan"),
        ({"embedded_guidance": 1e9}, "embedded_guidance must be at most 100"),
        ({"guidance": 2.0}, r"guidance 2.0 needs inputs with a null twin \(nulls\)"),
        ({"decoder": 1}, "decoder is true or false"),
        ({"nulls": (1,)}, "nulls are names of inputs"),
    ],
)
def test_numbers_that_no_loop_can_run_over(change: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        MultistepSampler(**{**GOOD, **change})
    data = {**sampler_to_json(MultistepSampler(**GOOD)), **change}
    with pytest.raises(TrustError, match="the sampler in the manifest"):
        sampler_from_json(data)
