"""The consistency function, its samplers and what distillation aims at
(docs/methods/latent-consistency.md, E.3, tests 1 to 5).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from latents import TINY, batches, lcd, shaken
from torch import Tensor

from edgegen.core.samplers import (
    ConsistencySampler,
    LatentDdimSampler,
    alphas_bar,
    boundary,
    clean_image,
    noise_of,
    sampler_from_json,
    sampler_to_json,
    trailing,
)
from edgegen.errors import TrustError
from edgegen.families.lcd import edm
from edgegen.families.lcd.consistency import (
    consistency,
    ddim_step,
    few_steps,
    guided,
    pseudo_huber,
    solver_grid,
)
from edgegen.families.lcd.losses import HUBER

LEVELS = alphas_bar("ldm", 1000)[1:]  # abar at t = 0..999


def exact(x: Any, t: float, spread: float) -> Any:
    """f* of data N(0, spread^2) (E.3 test 2)."""
    return ((spread**2 + edm.SIGMA_MIN**2) / (spread**2 + t**2)) ** 0.5 * x


# test 1: boundary


def test_1_at_the_start_of_time_f_is_the_identity_to_the_bit() -> None:
    x, predicted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for prediction in ("v", "epsilon"):
        assert torch.equal(
            consistency(x, torch.tensor(0), predicted, torch.tensor(0.9985), prediction), x
        )
        assert torch.equal(
            consistency(x, torch.zeros(2, 1, 1, 1), predicted, torch.tensor(0.9985), prediction), x
        )
    assert torch.equal(edm.consistency(x, edm.sigmas(40)[-1], predicted), x)
    assert [round(c, 5) for c in boundary(1)] == [0.00249, 0.99875]
    skip, out = boundary(19)
    assert skip == pytest.approx(7e-6, rel=0.02) and out == pytest.approx(0.999997, abs=1e-6)


# test 2: the analytic consistency function


def test_2_solver_steps_move_the_exact_f_by_what_their_order_says() -> None:
    largest: dict[str, list[float]] = {"heun": [], "euler": []}

    def denoise(x: Any, sigma: Any) -> Any:
        return 0.25 / (0.25 + sigma**2) * x

    for count in (40, 80, 160):
        grid = edm.sigmas(count)
        for name, step in (("heun", edm.heun_step), ("euler", edm.euler_step)):
            moved = []
            for now, then in pairwise(grid):
                x = (0.25 + now**2) ** 0.5  # one standard deviation of what is met there
                moved.append(
                    abs(exact(step(denoise, x, now, then), then, 0.5) - exact(x, now, 0.5))
                )
            largest[name].append(max(moved))
    assert all(
        found <= limit for found, limit in zip(largest["heun"], (8.5e-4, 1e-4, 1.2e-5), strict=True)
    ), largest
    assert all(
        found <= limit
        for found, limit in zip(largest["euler"], (5.5e-3, 1.35e-3, 3.3e-4), strict=True)
    ), largest
    for name, order in (("heun", 3), ("euler", 2)):
        orders = -np.diff(np.log2(largest[name]))
        assert orders == pytest.approx([order, order], abs=0.25), (name, orders)


# test 3: the sampler's law


@pytest.mark.parametrize("levels", [[80.0], [80.0, 1.38], list(edm.sigmas(40)[[0, 22, 39]])])
def test_3_the_exact_f_gives_the_data_s_spread(levels: list[float]) -> None:
    rng = np.random.default_rng(0)
    x = edm.sample(lambda x, t: exact(x, t, 0.5), levels, lambda k: rng.standard_normal(4_000_000))
    assert x.std() == pytest.approx(0.5, abs=1e-3)
    assert edm.sigmas(40)[[0, 22, 39]] == pytest.approx([80, 1.38, 0.002], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "timesteps"), [(1, (999,)), (2, (999, 499)), (4, (999, 759, 499, 259))]
)
def test_3_few_steps_take_these_timesteps_and_a_call_each(
    steps: int, timesteps: tuple[int, ...]
) -> None:
    """Also diffusers' LCMScheduler takes them; with the exact f of N(0, .5^2) the images have that
    spread.
    """
    from diffusers import LCMScheduler

    assert few_steps(1000, 50, steps) == timesteps
    theirs = LCMScheduler(1000, 0.0015, 0.0195, "scaled_linear")
    theirs.set_timesteps(steps, original_inference_steps=50)
    assert theirs.timesteps.tolist() == list(timesteps)
    np.testing.assert_allclose(theirs.alphas_cumprod, LEVELS, rtol=1e-5)
    sampler = ConsistencySampler(timesteps, tuple(LEVELS[list(timesteps)]))
    asked: list[int] = []

    def denoiser(x: Any, t: Any) -> Any:
        asked.append(int(t[0]))
        now, (skip, out) = LEVELS[asked[-1]], boundary(asked[-1])
        clean = (x * (0.25 / (now * 0.25 + 1 - now)) ** 0.5 - skip * x) / out
        return (now**0.5 * x - clean) / (1 - now) ** 0.5  # as v

    rng = np.random.default_rng(1)
    images = sampler(
        {"denoiser": denoiser, "decoder": lambda x: x * 0.1},
        rng.standard_normal((4000, 4, 8, 8)),
        {},
        lambda stream: rng.standard_normal((4000, 4, 8, 8)),
    )
    assert asked == list(timesteps)
    assert images.std() == pytest.approx(0.05, abs=1.5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_few_step_loop_is_diffusers(prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import LCMScheduler
    from diffusers.schedulers import scheduling_lcm

    theirs = LCMScheduler(
        1000,
        0.0015,
        0.0195,
        "scaled_linear",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
    )
    theirs.set_timesteps(4, original_inference_steps=50)
    timesteps, noise = few_steps(1000, 50, 4), torch.randn(5, 2, 4, 4, 4)
    ours = ConsistencySampler(timesteps, tuple(LEVELS[list(timesteps)]), prediction)(
        {"denoiser": network, "decoder": lambda x: x * 1e-4},
        noise[4],
        {},
        lambda stream: noise[int(stream[-1])],
    )
    x = noise[4]
    for k, t in enumerate(timesteps):
        monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, k=k, **__: noise[k])
        x, last = theirs.step(
            network(x, torch.full((2,), float(t))), torch.tensor(t), x, return_dict=False
        )
    torch.testing.assert_close(ours * 1e4, last, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_teacher_s_loop_is_diffusers_ddim(prediction: str) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        1000,
        0.0015,
        0.0195,
        "scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
    )
    theirs.set_timesteps(50)
    timesteps = tuple(t - 1 for t in trailing(1000, 50))
    assert theirs.timesteps.tolist() == list(timesteps)
    x = start = torch.randn(2, 4, 4, 4)
    sampler = LatentDdimSampler(timesteps, tuple(LEVELS[list(timesteps)]), prediction)
    ours = sampler(
        {"denoiser": network, "decoder": lambda x: x * 1e-4}, start, {}, lambda stream: start
    )
    for t in timesteps:
        x = theirs.step(network(x, torch.full((2,), float(t))), t, x).prev_sample
    torch.testing.assert_close(ours * 1e4, x, rtol=1e-3, atol=1e-3)


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + 0.001 * t[:, None, None, None]


# test 4: what distillation aims at


def test_4_the_target_of_linear_networks_is_the_ddim_step_by_hand() -> None:
    x, t, s = np.array([0.7, -1.2]), 499, 479
    now, then = LEVELS[t], LEVELS[s]
    e = guided(0.3 * x, 0.1 * x, 1 + 1.5)  # w = 1.5
    assert e == pytest.approx((0.3 + 1.5 * 0.2) * x)
    z0 = (x - (1 - now) ** 0.5 * e) / now**0.5
    by_hand = then**0.5 * z0 + (1 - then) ** 0.5 * e
    reached = ddim_step(x, e, now, then, "epsilon")
    assert reached == pytest.approx(by_hand)
    v = now**0.5 * e - (1 - now) ** 0.5 * z0
    assert ddim_step(x, v, now, then, "v") == pytest.approx(by_hand)
    assert clean_image(x, v, now, "v") == pytest.approx(z0) and noise_of(
        x, v, now, "v"
    ) == pytest.approx(e)
    target = consistency(reached, s, 0.2 * reached, then, "epsilon")
    skip, out = boundary(s)
    assert target == pytest.approx(
        skip * by_hand + out * (by_hand - (1 - then) ** 0.5 * 0.2 * by_hand) / then**0.5
    )
    first = ddim_step(x, e, LEVELS[19], LEVELS[0], "epsilon")
    # j = 1: the target is z_s itself
    assert (consistency(first, 0, 0.2 * first, LEVELS[0], "epsilon") == first).all()
    assert pseudo_huber(x, x) == 0 and pseudo_huber(x + 10, x) == pytest.approx(10, abs=2e-3)


@pytest.mark.slow
def test_4_only_the_student_gets_gradients_and_its_average_follows_exactly() -> None:
    model = shaken()
    model.begin_student(iter(()))
    with torch.no_grad():
        for p in model.student.parameters():
            p.add_(0.1)
    before = {k: v.clone() for k, v in model.target.named_parameters()}
    names = ("teacher", "autoencoder", "student")
    buffers = {
        name: {k: v.clone() for k, v in model.networks[name].named_buffers()} for name in names
    }
    model.networks.train()
    model.student_loss(next(batches(1))).backward()  # type: ignore[no-untyped-call]
    for name, net in model.networks.items():
        assert any(p.grad is not None for p in net.parameters()) == (name == "student"), name
    assert all(p.grad is not None for p in model.student.parameters())
    for k, p in model.student.named_parameters():
        torch.testing.assert_close(
            model.target.get_parameter(k), before[k] + 0.05 * (p - before[k])
        )
    # batch statistics stay, the student's too: what it must match has them
    for name, kept in buffers.items():
        assert all(torch.equal(v, model.networks[name].get_buffer(k)) for k, v in kept.items())
    moved = dict(model.student.named_buffers())
    model._follow()
    assert all(torch.equal(v, model.target.get_buffer(k)) for k, v in moved.items())


def test_an_error_of_v_costs_the_same_at_every_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unweighted, small timesteps counted for a few percent of it, drifted, and took all others
    with them.
    """
    model = shaken()
    model.begin_student(iter(()))

    def f(net: Any, x: Tensor, t: Tensor, now: Tensor, *_: Any) -> Tensor:
        return (1 - now).sqrt() * torch.full_like(x, 0.5 if net is model.student else 0.0)

    monkeypatch.setattr(model, "_f", f)
    for grid in (1, model.config.grid):
        last = grid * model.config.timesteps // model.config.grid - 1
        monkeypatch.setattr(model, "_grid", lambda g, n, t=last: torch.full((n,), t))
        assert model.student_loss(next(batches(1))) == pytest.approx(
            float(pseudo_huber(torch.tensor(0.5), 0.0, HUBER))
        )


def test_4_the_student_starts_as_the_teacher_whatever_w() -> None:
    model = shaken()
    model.begin_student(iter(()))
    model.networks.eval()
    x, t, label = torch.randn(3, 4, 8, 8), torch.tensor([4.0, 49, 99]), torch.eye(2)[[0, 1, 0]]
    wanted = model.teacher(x, t, label)
    for w in (0.0, 2.5):
        assert torch.equal(model.student(x, t, label, None, torch.full((3,), w)), wanted)
    with torch.no_grad():
        assert model.student.embed.label is not None
        model.student.embed.label.weight.normal_()
    assert not torch.equal(model.student(x, t, label, None, torch.full((3,), 2.5)), wanted)


# test 5: classifier-free guidance


@pytest.mark.parametrize(("g", "calls"), [(1.0, 1), (0.0, 1), (2.0, 2)])
def test_5_guidance_of_1_is_the_conditional_branch_and_of_0_the_null_branch(
    g: float, calls: int
) -> None:
    seen: list[float] = []

    def denoiser(x: Any, t: Any, label: Any) -> Any:
        seen.append(label.sum())
        return 0.2 * x + label[:, :1, None, None]

    sampler = LatentDdimSampler((999,), (float(LEVELS[999]),), "v", g)
    x = np.zeros((2, 4, 2, 2))
    image = sampler(
        {"denoiser": denoiser, "decoder": lambda x: x},
        x,
        {"label": np.eye(2)[[0, 0]]},
        lambda stream: x,
    )
    assert len(seen) == calls and image[0, 0, 0, 0] == pytest.approx(
        max(-1, -g * (1 - LEVELS[999]) ** 0.5)
    )


def test_5_w_is_g_less_1_and_null_is_dropped_one_time_in_ten() -> None:
    from edgegen.families.lcd.losses import _dropped

    model = shaken()
    x, t, label = torch.randn(4, 4, 8, 8), torch.full((4,), 50.0), torch.eye(2)[[0, 1, 0, 1]]
    with torch.no_grad():
        c, u = (model.teacher.eval()(x, t, given) for given in (label, label * 0))
        w = torch.tensor([0.0, 0.5, 1.0, 3.0])
        mixed = model._teacher(x, t, label, None, w)
    torch.testing.assert_close(
        mixed, u + (1 + w[:, None, None, None]) * (c - u), atol=1e-5, rtol=1e-4
    )
    g = torch.Generator().manual_seed(0)
    kept = _dropped(torch.ones(40_000, 3), TINY.null, g)
    assert 1 - kept[:, 0].mean().item() == pytest.approx(0.1, abs=0.01)
    assert ((kept == 0).all(1) | (kept == 1).all(1)).all()


# samplers as data


@pytest.mark.parametrize(
    "sampler",
    [
        LatentDdimSampler((99, 49), (0.1, 0.5), "epsilon", 2.0),
        ConsistencySampler((99, 0), (0.1, 0.9)),
    ],
)
def test_samplers_survive_the_manifest(sampler: Any) -> None:
    assert sampler_from_json(sampler_to_json(sampler)) == sampler


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"prediction": "x0"}, "unknown prediction 'x0'"),
        ({"timesteps": ()}, "0 timesteps but 2 signal levels"),
        ({"timesteps": (49, 99)}, "timesteps must fall"),
        ({"signal": (0.5, 0.1)}, "signal levels must rise"),
        ({"guidance": -1.0}, r"guidance must be in \[0, 100\]"),
        ({"signal": (float("nan"), 0.5)}, "signal levels must rise"),
    ],
)
def test_a_sampler_that_cannot_loop_is_refused(change: dict[str, Any], text: str) -> None:
    data = sampler_to_json(LatentDdimSampler((99, 49), (0.1, 0.5))) | change
    with pytest.raises(TrustError, match=text):
        sampler_from_json(data)


@pytest.mark.parametrize(
    "call",
    [
        lambda: few_steps(1000, 50, 51),
        lambda: solver_grid(100, 30),
        lambda: edm.sigmas(1),
        lambda: alphas_bar("ldm", 10),
    ],
)
def test_numbers_that_mean_nothing_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        call()


def test_one_configured_guidance_serves_teacher_and_student() -> None:
    model = lcd(guidance=1.5, way="teacher")
    assert (
        isinstance(model.sampler, LatentDdimSampler)
        and model.sampler.guidance == 1.5
        and len(model.sampler.timesteps) == 50
    )
