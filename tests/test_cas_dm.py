"""Cas-DM's acceptance tests 1 to 3, numbered as in docs/methods/cas-dm.md, C.3; 4 to 6 and 8:
test_cas_dm_sampling, 7: test_metrics, 9 and 10: test_cas_dm_toy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import (
    CONFIG,
    NET,
    batch,
    generator,
    phi,
    shaken,
    train,
    trainer,
)

from edgegen.core.graph import Batch, Objective
from edgegen.core.samplers import CascadeSampler, alphas_bar, clean_image
from edgegen.families.cas_dm import CasDm, gate_loss
from edgegen.families.cas_dm.losses import gate_weights
from edgegen.families.cas_dm.networks import GATES
from edgegen.families.metrics import METRICS
from edgegen.families.unet import UNetConfig
from edgegen.training.loop import Trainer

# 1. Gradient isolation


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"theta": replace(NET, norm=norm), "phi": replace(NET, norm=norm)}
            for norm in ("batch", "group", "none")
        ),
        *({"gate": gate} for gate in GATES),
        {"gate": "none"},
        {"gate_trunk_detach": True},
        {"gate_loss": "posterior"},
        {"mode": "frozen"},
        {"residual": False, "phi_input": "x0"},
    ],
    ids=str,
)
def test_1_losses_of_phi_never_reach_theta(change: dict[str, Any]) -> None:
    model = shaken(replace(CONFIG, **change))
    data = batch()
    if model.config.mode == "joint":
        model.theta_loss(data)
    model.phi_loss(data).backward()  # type: ignore[no-untyped-call]
    assert [
        name for name, p in model.networks["theta"].named_parameters() if p.grad is not None
    ] == []
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.networks["phi"].parameters()
    )


def test_1_the_noise_loss_never_reaches_phi() -> None:
    model = shaken()
    model.theta_loss(batch()).backward()  # type: ignore[no-untyped-call]
    assert [
        name for name, p in model.networks["phi"].named_parameters() if p.grad is not None
    ] == []
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.networks["theta"].parameters()
    )


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(
    ("which", "gate_form"), [("image", "sigmoid"), *(("gate", gate) for gate in GATES)]
)
def test_1_the_gate_loss_moves_the_gate_head_and_the_others_the_image_head(
    which: str, gate_form: Any, detach: bool
) -> None:
    model = shaken(replace(CONFIG, gate=gate_form, gate_trunk_detach=detach))
    x, coarse = torch.randn(8, 3, 16, 16), torch.rand(8, 3, 16, 16) * 2 - 1
    images, signal = batch().images, torch.full((8, 1, 1, 1), 0.5)
    refined = model.networks["phi"](coarse, x, torch.full((8,), 50.0))
    image, gate = refined[:, :-1], refined[:, -1:]
    if which == "gate":
        loss = gate_loss(gate, image, coarse, images, signal)
    else:
        loss = (image - images).square().mean() + METRICS["gradient"](image, images).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    trunk = phi(model).trunk
    # rows of the head before this make the image (pixel_shuffle keeps channels together)
    cut = 3 * NET.patch**2
    for grad in (p.grad for p in trunk.head.parameters()):
        assert grad is not None
        moved, still = (grad[cut:], grad[:cut]) if which == "gate" else (grad[:cut], grad[cut:])
        assert (moved != 0).all()
        assert (still == 0).all()
    below = [p.grad for name, p in trunk.named_parameters() if not name.startswith("head")]
    if which == "gate" and detach:
        assert all(grad is None or (grad == 0).all() for grad in below)
    else:
        assert all(grad is not None and grad.abs().sum() > 0 for grad in below)


def test_1_phi_needs_thetas_prediction_of_the_same_batch() -> None:
    model = generator()
    with pytest.raises(ValueError, match="call theta's objective first, on the same batch"):
        model.phi_loss(batch())
    model.theta_loss(batch())
    with pytest.raises(ValueError, match="on the same batch"):
        model.phi_loss(batch(seed=1))


# 2. Trajectory isolation


class ThetaAlone(CasDm):
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(super().objectives())[:1]


class Greedy(CasDm):
    """A phi that takes from every random stream it can reach, and whose loss is sometimes NaN."""

    def phi_loss(self, batch: Batch) -> Tensor:
        torch.rand(7)
        torch.rand(7, generator=batch.generator)
        loss = super().phi_loss(batch)
        return loss * float("nan") if torch.rand(()) < 0.3 else loss


def theta_state(run: Trainer) -> dict[str, Tensor]:
    """Weights, batch-norm statistics, average and Adam state of theta."""
    optimizer = run.optimizers[0].state_dict()["state"]
    state = {f"adam.{i}.{k}": v for i, entry in optimizer.items() for k, v in entry.items()}
    state |= {f"now.{k}": v for k, v in run.generator.networks["theta"].state_dict().items()}
    return state | {f"average.{k}": v for k, v in run.averages["theta"].state_dict().items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """theta's state after 20 steps with phi never trained, by norm."""
    return {norm: _trajectory(ThetaAlone, 0.1, norm) for norm in ("batch", "group")}


def _trajectory(kind: type[CasDm], weight: float, norm: Any) -> Trainer:
    net = UNetConfig(widths=(16, 16), embedding=16, dropout=0.3, norm=norm)
    config = replace(CONFIG, theta=net, phi=net, metric_weight=weight)
    torch.manual_seed(0)
    run = trainer(config, steps=20)
    made = kind(config)
    made.networks.load_state_dict(run.generator.networks.state_dict())
    run = Trainer.start(made, run.recipe, run.photos, seed=0)
    train(run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "weight", "norm"),
    [
        (CasDm, 0.1, "batch"),
        (CasDm, 0.1, "group"),
        (CasDm, 100.0, "batch"),
        (CasDm, 0.0, "batch"),
        (Greedy, 0.1, "batch"),
    ],
)
def test_2_theta_moves_alike_whatever_phi_does(
    alone: dict[str, Any], kind: type[CasDm], weight: float, norm: str
) -> None:
    run = _trajectory(kind, weight, norm)
    assert (run.skipped > 0) == (kind is Greedy)
    before, now = theta_state(alone[norm]), theta_state(run)
    assert before.keys() == now.keys()
    assert [k for k in now if not torch.equal(before[k], now[k])] == []
    if norm == "batch":
        assert any("running_var" in k for k in now)
    untrained, trained = (r.generator.networks["phi"].state_dict() for r in (alone[norm], run))
    assert not all(torch.equal(untrained[k], trained[k]) for k in trained)


# 3. Algebra, in float64


def coefficients(schedule: str, steps: int) -> tuple[Tensor, ...]:
    """A_t, c_t, beta_t, alpha_t, abar_t for t = 1..steps (C.2.5)."""
    bar = torch.from_numpy(alphas_bar(schedule, steps))
    now, before = bar[1:], bar[:-1]
    alpha = now / before
    beta = 1 - alpha
    return (
        alpha.sqrt() * (1 - before) / (1 - now),
        before.sqrt() * beta / (1 - now),
        beta,
        alpha,
        now,
    )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_3_mixing_means_is_mixing_clean_images(schedule: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x, eps, refined, images = (
        torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    gate = torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64)
    for a, c, beta, alpha, bar in zip(*coefficients(schedule, 1000), strict=True):
        if bar < 1e-5:
            # x0 of the closed form reaches 2e4 there, and float64's own rounding the limit
            continue
        coarse = clean_image(x, eps, bar, "epsilon")
        mean_eps = (x - beta / (1 - bar).sqrt() * eps) / alpha.sqrt()
        assert (mean_eps - (a * x + c * coarse)).abs().max() < 1e-10
        mixed = gate * refined + (1 - gate) * coarse
        mean = gate * (a * x + c * refined) + (1 - gate) * mean_eps
        assert (mean - (a * x + c * mixed)).abs().max() < 1e-10
        wanted = a * x + c * images
        assert torch.allclose(
            (wanted - mean).square(), c**2 * (images - mixed).square(), rtol=1e-8, atol=1e-10
        )


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_3_gate_loss_is_the_bounded_form_with_the_papers_minimiser(prediction: str) -> None:
    rng = torch.Generator().manual_seed(0)
    images, eps, guess, refined = (
        torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    gate = torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64)
    for bar in (0.999, 0.5, 0.01):
        signal = torch.full((4, 1, 1, 1), bar, dtype=torch.float64)
        x = bar**0.5 * images + (1 - bar) ** 0.5 * eps
        predicted = guess if prediction == "epsilon" else (guess - (1 - bar) ** 0.5 * x) / bar**0.5
        coarse = clean_image(x, predicted, signal, prediction)
        written = gate * bar**0.5 * (refined - images) + (1 - gate) * (1 - bar) ** 0.5 * (
            eps - guess
        )
        assert float(
            gate_loss(gate, refined, coarse, images, signal) - written.square().mean()
        ) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_3_the_papers_gate_loss_is_the_distance_of_means(schedule: str) -> None:
    """mean ||mu~ - (r mu_x(x_phi) + (1 - r) mu_eps(eps_theta))||^2, written from C.2.5 (2), at each
    timestep.
    """
    rng = torch.Generator().manual_seed(0)
    x, eps, refined, images = (
        torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    gate = torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64)
    weights = gate_weights("posterior", alphas_bar(schedule, 1000))
    assert weights.shape == (1001,) and weights[1] == pytest.approx(1.0)
    if schedule == "linear":
        # the numbers of C.2.5
        np.testing.assert_allclose(
            weights[[10, 500, 1000]] ** 0.5, [0.147, 3.1e-3, 1.3e-4], rtol=0.03
        )
    for t, (a, c, beta, alpha, bar) in enumerate(
        zip(*coefficients(schedule, 1000), strict=True), start=1
    ):
        if bar < 1e-5 or t % 7:
            continue
        mean_eps = (x - beta / (1 - bar).sqrt() * eps) / alpha.sqrt()
        wanted = (
            (a * x + c * images - gate * (a * x + c * refined) - (1 - gate) * mean_eps)
            .square()
            .mean()
        )
        coarse, weight = (
            clean_image(x, eps, bar, "epsilon"),
            torch.full((4, 1, 1, 1), float(weights[t]), dtype=torch.float64),
        )
        assert float(gate_loss(gate, refined, coarse, images, weight)) == pytest.approx(
            float(wanted), rel=1e-6
        )


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_3_a_step_of_eta_1_is_the_posterior(schedule: str) -> None:
    """The sampler's one formula, at every timestep, against A_t x + c_t x_mix + sqrt(beta~_t) z."""
    bar = alphas_bar(schedule, 100)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    refined = torch.rand(
        2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    z = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for t in (100, 99, 50, 2):
        seen: list[Tensor] = []

        def theta(x: Tensor, t: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return x * 0

        sampler = CascadeSampler((t, t - 1), (bar[t], bar[t - 1]), "epsilon", eta=1.0)
        sampler({"theta": theta, "phi": lambda **_: refined}, x, {}, lambda _: z)
        a, c, beta, _, now = (v[t - 1] for v in coefficients(schedule, 100))
        coarse = (x / now.sqrt()).clip(-1, 1)
        mixed = refined[:, -1:] * refined[:, :-1] + (1 - refined[:, -1:]) * coarse
        sigma = (beta * (1 - bar[t - 1]) / (1 - now)).sqrt()
        assert (seen[1] - (a * x + c * mixed + sigma * z)).abs().max() < 1e-10
