"""Cas-DM's acceptance tests 4 to 6 and 8, numbered as in docs/methods/cas-dm.md, C.3: samples, and
how the gate weighs its branches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import (
    CONFIG,
    batch,
    calls,
    draws,
    phi,
    shaken,
)

from edgegen.core.samplers import CascadeSampler, alphas_bar, clean_image, trailing
from edgegen.families.cas_dm import gate_loss
from edgegen.families.cas_dm.losses import gate_weights
from edgegen.families.cas_dm.networks import GATES

# 4. Identity phi


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_4_untrained_phi_changes_no_sample(eta: float, bias: float) -> None:
    model = shaken(replace(CONFIG, gate_bias=bias))
    for tensor_ in phi(model).trunk.head.parameters():
        nn.init.zeros_(tensor_)
    x, draw = (
        torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)),
        draws((4, 3, 16, 16)),
    )
    plain = model.sampler_with(10, "eps", eta)(calls(model), x, {}, draw)
    assert plain.std() > 0.1
    for path in ("dynamic", "x0", "fixed"):
        gates = (0.7,) * 10 if path == "fixed" else ()
        assert (
            model.sampler_with(10, path, eta, gates)(calls(model), x, {}, draw) - plain
        ).abs().max() <= 1e-5


# 5. Optimal gate


@pytest.mark.parametrize("kind", ["bounded", "posterior"])
@pytest.mark.parametrize(("theta", "phi"), [(0.8, 0.2), (0.4, 0.4), (0.1, 0.0), (0.0, 0.3)])
def test_5_the_gate_weighs_branches_by_the_others_variance(
    theta: float, phi: float, kind: str
) -> None:
    from scipy.optimize import minimize_scalar

    weight = float(gate_weights(kind, alphas_bar("linear", 1000))[300])
    rng = torch.Generator().manual_seed(0)
    images, a, b = (
        torch.randn(64, 3, 16, 16, generator=rng, dtype=torch.float64) for _ in range(3)
    )
    coarse, refined, signal = (
        images + theta * a,
        images + phi * b,
        torch.full((64, 1, 1, 1), weight, dtype=torch.float64),
    )

    def loss(r: float) -> float:
        return float(
            gate_loss(
                torch.full((64, 1, 16, 16), r, dtype=torch.float64), refined, coarse, images, signal
            )
        )

    best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-6}).x
    assert best == pytest.approx(theta**2 / (theta**2 + phi**2), abs=0.01)


@pytest.mark.parametrize("form", list(GATES))
def test_5_every_form_of_gate_finds_the_best_one(form: str) -> None:
    """Fitted by gradient descent on its own input, errors of variance 0.64 and 0.04: r -> 0.941."""
    rng = torch.Generator().manual_seed(0)
    images, a, b = (torch.randn(2000, 3, 2, 2, generator=rng) for _ in range(3))
    coarse, refined, weight = images + 0.8 * a, images + 0.2 * b, torch.ones(2000, 1, 1, 1)
    raw = torch.zeros(1, 1, 2, 2, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    # where all of them start
    assert GATES[form](raw, -2.0).detach().mean().item() == pytest.approx(0.1192, abs=1e-4)
    for _ in range(500):
        optimizer.zero_grad()
        gate_loss(GATES[form](raw, -2.0), refined, coarse, images, weight).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert GATES[form](raw, -2.0).detach().mean().item() == pytest.approx(0.941, abs=0.01)


# 6. Gaussian oracle sampler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "eta"), [(10, 0.0), (50, 0.0), (250, 0.0), (1000, 0.0), (1000, 1.0)]
)
def test_6_an_exact_network_samples_its_gaussian(
    steps: int, eta: float, record_property: Any
) -> None:
    """Data N(0.3, 0.5^2), whose clean image is not clipped on the path "x0"; the shortfall at few
    steps is discretisation.
    """
    mean, deviation = 0.3, 0.5
    rng = np.random.default_rng(0)
    timesteps, bar = trailing(1000, steps), alphas_bar("linear", 1000)

    def exact(x: Any, t: Any) -> Any:
        now = bar[int(t[0])]
        return (x - now**0.5 * mean) * (1 - now) ** 0.5 / (now * deviation**2 + 1 - now)

    def oracle(coarse: Any, x: Any, t: Any) -> Any:
        clean = clean_image(x, exact(x, t), bar[int(t[0])], "epsilon")
        return np.concatenate([clean, clean[:, :1]], axis=1)

    sampler = CascadeSampler(timesteps, tuple(bar[list(timesteps)]), "epsilon", "x0", eta=eta)
    images = sampler(
        {"theta": exact, "phi": oracle},
        rng.standard_normal((64, 1, 32, 32)),
        {},
        lambda _: rng.standard_normal((64, 1, 32, 32)),
    )
    # not moved by the last clip to [-1, 1]
    low, middle, high = np.quantile(images, [0.16, 0.5, 0.84])
    found = (high - low) / (2 * 0.99446)
    record_property("standard deviation", float(found))
    assert middle == pytest.approx(mean, abs=0.01 if steps == 1000 else 0.05)
    assert abs(found - deviation) < (0.01 if steps == 1000 else 0.2)


# 8. Finite at t = T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("prediction", "change"),
    [
        ("epsilon", {}),
        ("v", {}),
        ("epsilon", {"gate": "linear", "gate_loss": "posterior"}),
        ("v", {"gate": "clip"}),
    ],
)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_8_nothing_overflows_at_the_noisiest_timestep(
    schedule: Any, prediction: Any, change: dict[str, Any], dtype: torch.dtype
) -> None:
    config = replace(
        CONFIG,
        schedule=schedule,
        prediction=prediction,
        timesteps=1000,
        metric_schedule="const",
        **change,
    )
    model = shaken(config)
    seen: list[Tensor] = []
    model.networks["phi"].register_forward_pre_hook(
        lambda _, inputs: seen.extend(i for i in inputs if i is not None)
    )
    data = batch()
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        patch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, high - 1))
        losses = [model.theta_loss(data), model.phi_loss(data)]
    assert (
        len(seen) == 3
        and all(s.isfinite().all() for s in seen)
        and seen[0].abs().max() <= 1
        and (seen[2] == 1000).all()
    )
    assert all(loss.isfinite() for loss in losses)
    sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.networks.parameters())
    model.networks.to(dtype)
    x, draw = torch.randn(2, 3, 16, 16, dtype=dtype), draws((2, 3, 16, 16), dtype)
    for eta in (0.0, 1.0):
        images = model.sampler_with(5, eta=eta)(calls(model), x, {}, draw)
        assert images.dtype == dtype and images.isfinite().all() and images.abs().max() <= 1
