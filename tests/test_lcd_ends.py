"""Distillation to the ends of the teacher's trajectories: the solver, what is aimed at, and a
sampler that keeps its noise.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from latents import TINY, batches, shaken
from torch import Tensor

from edgegen.core.samplers import (
    ConsistencySampler,
    alphas_bar,
    boundary,
    sampler_from_json,
    sampler_to_json,
)
from edgegen.errors import TrustError
from edgegen.families.lcd.consistency import few_steps
from edgegen.families.lcd.family import LatentConsistency
from edgegen.families.lcd.losses import POINTS, SHIPPED_W
from edgegen.families.lcd.trajectory import trajectory

LEVELS = alphas_bar("ldm", 1000)[1:]  # abar at t = 0..999


def gaussian(x: Any, signal: Any, variance: Any) -> Any:
    """v of the exact denoiser of N(0, variance)."""
    return (signal * (1 - signal)) ** 0.5 * (1 - variance) / (signal * variance + 1 - signal) * x


def spread(signal: float, variance: float) -> float:
    """Standard deviation of that data at a level, which a trajectory keeps its place in."""
    return float((signal * variance + 1 - signal) ** 0.5)


# the solver


def test_its_points_keep_their_quantile_of_gaussian_data_and_double_steps_quarter_the_error() -> (
    None
):
    errors = []
    for count in (8, 16, 32):
        logits = np.linspace(-8, 8, count)
        signal = list(1 / (1 + np.exp(-logits)))

        def predict(x: float, t: int, signal: list[float] = signal) -> float:
            return float(gaussian(x, signal[t], 0.25))

        points, end = trajectory(predict, 1.0, range(count), signal, "v")
        assert len(points) == count and points[0] == 1.0
        wanted = [spread(s, 0.25) / spread(signal[0], 0.25) for s in signal]
        errors.append(np.abs(np.array(points) - wanted).max())
        assert end == pytest.approx(0.5, abs=2 * errors[-1] + 1e-3)
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3, errors
    assert errors[-1] < 3e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_the_solver_is_diffusers_dpm(prediction: str) -> None:
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(
        1000,
        0.0015,
        0.0195,
        "scaled_linear",
        solver_order=2,
        algorithm_type="dpmsolver++",
        lower_order_final=False,
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    theirs.set_timesteps(8)
    times = theirs.timesteps.tolist()
    signal = [float(LEVELS[t]) for t in times]
    start = torch.randn(2, 4, 4, 4, dtype=torch.float64)

    def network(x: Tensor, t: int) -> Tensor:
        return 0.1 * torch.sin(3 * x) + 1e-4 * t

    points, end = trajectory(network, start, times, signal, prediction)
    x = start
    for ours, t in zip(points, times, strict=True):
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)
        x = theirs.step(network(x, t), t, x).prev_sample
    torch.testing.assert_close(end.isfinite().all(), torch.tensor(True))


# what the student aims at


def known(
    model: LatentConsistency, monkeypatch: pytest.MonkeyPatch, miss: float = 1.0
) -> list[Tensor]:
    """Teacher of Gaussians whose variance is each label's and w's own; student that knows every
    end, times `miss`; w's asked.
    """
    c, asked = model.config, list[Tensor]()
    times, signal = c.solved

    def variance(label: Tensor, w: Tensor) -> Tensor:
        return (0.2 + 0.3 * label.argmax(1) + 0.1 * w)[:, None, None, None]

    def teacher(x: Tensor, t: Tensor, label: Tensor, vector: None, w: Tensor) -> Tensor:
        return gaussian(x, model._signal(t.long()), variance(label, w))

    def student(
        net: object, x: Tensor, t: Tensor, now: Tensor, label: Tensor, vector: None, w: Tensor
    ) -> Tensor:
        own, one = variance(label, w).double(), torch.ones(len(x), 1, 1, 1, dtype=torch.float64)
        points, end = trajectory(
            lambda y, s: gaussian(y, float(model.teacher.signal[s]), own),
            one,
            times,
            signal,
            c.prediction,
        )
        there = torch.stack(points)[[times.index(int(at)) for at in t], torch.arange(len(x))]
        asked.append(w)
        return (x * end / there).float() * miss

    monkeypatch.setattr(model, "_teacher", teacher)
    monkeypatch.setattr(model, "_f", student)
    return asked


def test_who_knows_the_flow_of_every_condition_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """From any point of a trajectory to its end, at that trajectory's label and w; 5 % beside it
    shows.
    """
    model = shaken()
    model.begin_student(iter(()))
    asked = known(model, monkeypatch)
    for batch in batches(4):
        assert float(model.ends_loss(batch)) < 1e-8
    known(model, monkeypatch, miss=1.05)
    assert float(model.ends_loss(next(batches(1)))) > 1e-4
    shipped = torch.cat(asked) == model.config.guidance - 1
    assert 0 < shipped.float().mean() < 1 and all(
        w.min() >= 0 and w.max() <= model.config.w_max for w in asked
    )
    assert all(torch.equal(w[::POINTS].repeat_interleave(POINTS), w) for w in asked)
    assert 0.5 < SHIPPED_W < 1


def test_the_start_is_learnt_from_every_trajectory_and_the_shipped_steps_most() -> None:
    model = shaken()
    c = model.config
    place = model._places(torch.Generator().manual_seed(0), 4000, POINTS)
    assert place.shape == (4000, POINTS) and (place[:, 0] == 0).all()
    times, _ = c.solved
    assert {times[k] for k in place[:, 1].tolist()} == set(few_steps(c.timesteps, c.grid, 4)[1:])
    assert set(place[:, 2].tolist()) == set(range(1, c.solver))


def test_only_the_student_gets_gradients_and_nothing_else_moves() -> None:
    model = shaken(perceptual=1.0)
    model.teach(batches(2))
    model.begin_student(iter(()))
    before = {k: v.clone() for k, v in model.networks.state_dict().items()}
    model.networks.train()
    model.ends_loss(next(batches(1))).backward()  # type: ignore[no-untyped-call]
    for name, net in model.networks.items():
        assert any(p.grad is not None for p in net.parameters()) == (name == "student"), name
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.student.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.networks.state_dict().items())
    assert all(
        p.requires_grad
        for name in ("autoencoder", "student")
        for p in model.networks[name].parameters()
    )


@pytest.mark.slow
def test_images_count_where_there_is_a_judge() -> None:
    """PDist of decoded ends is added to the latents' loss, with the config's weight."""
    losses = []
    for weight in (0.0, 1.0, 3.0):
        model = shaken(perceptual=weight)
        model.teach(batches(2))
        model.begin_student(iter(()))
        losses.append(float(model.ends_loss(next(batches(1))).detach()))
    assert losses[1] > losses[0] and losses[2] - losses[0] == pytest.approx(
        3 * (losses[1] - losses[0]), rel=1e-4
    )


def test_the_config_says_which_way_the_student_learns() -> None:
    for distil, loss in (("ends", "ends_loss"), ("steps", "student_loss")):
        model = shaken(distil=distil)
        student = next(o for o in model.objectives() if o.name == "student")
        assert student.loss == getattr(model, loss)


# a sampler that keeps its noise


def test_own_noise_stays_on_the_line_from_noise_to_image() -> None:
    """With an f that always says the same image, every step sees that image under the first step's
    noise; nothing is drawn.
    """
    timesteps = few_steps(1000, 50, 4)
    rng = np.random.default_rng(0)
    image, start = rng.standard_normal((2, 3, 4, 4, 4))
    noise = (start - LEVELS[999] ** 0.5 * image) / (1 - LEVELS[999]) ** 0.5
    asked: list[int] = []

    def denoiser(x: Any, t: Any) -> Any:
        asked.append(int(t[0]))
        now, (skip, out) = LEVELS[asked[-1]], boundary(asked[-1])
        np.testing.assert_allclose(
            x, now**0.5 * image + (1 - now) ** 0.5 * noise, rtol=1e-6, atol=1e-8
        )
        return (now**0.5 * x - (image - skip * x) / out) / (1 - now) ** 0.5  # as v

    def draw(stream: str) -> Any:
        raise AssertionError(f"{stream} was drawn")

    sampler = ConsistencySampler(timesteps, tuple(LEVELS[list(timesteps)]), renoise="own")
    made = sampler({"denoiser": denoiser, "decoder": lambda x: x * 0.1}, start, {}, draw)
    assert asked == list(timesteps)
    np.testing.assert_allclose(made, (image * 0.1).clip(-1, 1), rtol=1e-6, atol=1e-8)


def test_a_manifest_from_before_still_draws_fresh_noise() -> None:
    sampler = ConsistencySampler((99, 0), (0.1, 0.9), renoise="own")
    data = json.loads(json.dumps(sampler_to_json(sampler)))
    assert sampler_from_json(data) == sampler
    del data["renoise"]
    assert sampler_from_json(data) == ConsistencySampler((99, 0), (0.1, 0.9), renoise="fresh")
    with pytest.raises(TrustError, match="renoise 'old'; known: fresh, own"):
        sampler_from_json({**data, "renoise": "old"})


def test_the_config_says_which_noise_its_sampler_adds() -> None:
    for renoise in ("own", "fresh"):
        sampler = shaken(renoise=renoise).sampler
        assert isinstance(sampler, ConsistencySampler) and sampler.renoise == renoise
    assert TINY.renoise == "own"
