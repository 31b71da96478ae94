"""Cas-DM's acceptance tests 9 and 10 (docs/methods/cas-dm.md, C.3): what the metric loss does in
short trainings, and what it does not touch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import CONFIG, NET, calls, draws, shapes, tensor, train, trainer

from edgegen.core.samplers import alphas_bar, clean_image, mean_gates
from edgegen.evidence.distances import Moments, frechet
from edgegen.families.cas_dm import CasDm
from edgegen.families.metrics import METRICS
from edgegen.families.unet import UNet

pytestmark = pytest.mark.slow

# 9. Effect test


def noised(model: CasDm, images: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """x_t, its noise, the timesteps and abar_t."""
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(t))
    signal = float(alphas_bar(model.config.schedule, model.config.timesteps)[t])
    return (
        signal**0.5 * images + (1 - signal) ** 0.5 * eps,
        eps,
        torch.full((len(images),), float(t)),
        signal,
    )


def judged(model: CasDm, images: Tensor, t: int) -> tuple[float, float]:
    """theta's mean squared error of the noise and the metric of phi's image, at t."""
    x, eps, times, signal = noised(model, images, t)
    call = calls(model)
    raw = clean_image(x, call["theta"](x=x, t=times), signal, model.config.prediction)
    refined = call["phi"](coarse=raw.clip(-1, 1), x=x, t=times)[:, :-1]
    error = (x - signal**0.5 * raw) / (1 - signal) ** 0.5 - eps
    return float(error.square().mean()), float(METRICS["gradient"](refined, images).mean())


@pytest.fixture(scope="module")
def with_and_without() -> tuple[CasDm, CasDm]:
    def made(weight: float) -> CasDm:
        config = replace(CONFIG, metric_weight=weight, metric_schedule="const")
        run = trainer(config, shapes(512, seed=1), steps=90, batch=16, rate=3e-3)
        train(run)
        assert isinstance(run.generator, CasDm)
        return run.generator

    return made(0.0), made(1.0)


@pytest.mark.parametrize("t", [11, 28, 46])
def test_9_the_metric_loss_improves_the_metric_and_leaves_theta_alone(
    with_and_without: tuple[CasDm, CasDm], t: int
) -> None:
    held = tensor(shapes(128, seed=2))
    signal = alphas_bar("linear", 100)[t]
    assert 0.1 <= signal <= 0.9
    (error, plain), (error_too, helped) = (judged(model, held, t) for model in with_and_without)
    assert error == error_too
    assert helped <= 0.95 * plain


def test_9_the_four_paths_can_be_compared(
    with_and_without: tuple[CasDm, CasDm], record_property: Any
) -> None:
    model = with_and_without[1]
    start, draw = (
        torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        draws((128, 3, 16, 16)),
    )
    wanted = features(tensor(shapes(512, seed=3)))
    gates = mean_gates(model.sampler_with(4), calls(model), start, {}, draw)
    assert len(gates) == 4 and all(0 < g < 1 for g in gates)
    found = {}
    for path in ("eps", "x0", "dynamic", "fixed"):
        sampler = model.sampler_with(4, path, gates=gates if path == "fixed" else ())
        images = sampler(calls(model), start, {}, draw)
        found[path] = frechet(features(images), wanted)
        record_property(f"FD {path}", float(found[path]))
    assert len(set(found.values())) == 4 and all(np.isfinite(v) and v > 0 for v in found.values())


def features(images: Tensor) -> Moments:
    pooled = nn.functional.avg_pool2d(images, 4).flatten(1).numpy()
    return Moments.of(pooled)


# 10. Negative control: one network with both outputs


def dual_errors(weight: float) -> list[float]:
    """Noise errors after 30 steps of one network that predicts noise and clean image, the metric
    acting on the latter.
    """
    torch.manual_seed(0)
    net = UNet(NET, 3, 6, 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    bar = torch.from_numpy(alphas_bar("linear", 100)).float()
    images = tensor(shapes(16))
    for step in range(30):
        rng = torch.Generator().manual_seed(step)
        t = torch.randint(1, 101, (16,), generator=rng)
        eps, signal = torch.randn(images.shape, generator=rng), bar[t][:, None, None, None]
        out = net(signal.sqrt() * images + (1 - signal).sqrt() * eps, t.float(), None)
        loss = (out[:, :3] - eps).square().mean() + (out[:, 3:] - images).square().mean()
        loss = loss + weight * METRICS["gradient"](out[:, 3:], images).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    held, rng = tensor(shapes(32, seed=5)), torch.Generator().manual_seed(7)
    eps = torch.randn(held.shape, generator=rng)
    with torch.no_grad():
        return [
            float(
                (
                    net(
                        bar[t].sqrt() * held + (1 - bar[t]).sqrt() * eps,
                        torch.full((32,), float(t)),
                        None,
                    )[:, :3]
                    - eps
                )
                .square()
                .mean()
            )
            for t in (10, 30, 60)
        ]


def test_10_a_single_dual_output_network_is_changed_by_the_metric_and_the_cascade_is_not() -> None:
    plain, touched = dual_errors(0.0), dual_errors(1.0)
    assert all(abs(a - b) > 1e-3 * a for a, b in zip(plain, touched, strict=True))
    held, errors = tensor(shapes(32, seed=5)), []
    for weight in (0.0, 1.0):
        run = trainer(
            replace(CONFIG, prediction="epsilon", metric_weight=weight), shapes(16), steps=10
        )
        train(run)
        assert isinstance(run.generator, CasDm)
        errors.append([judged(run.generator, held, t)[0] for t in (10, 30, 60)])
    assert errors[0] == errors[1]
