"""Cas-DM's acceptance tests, numbered as in the specification (C.3), and the oracle tests of its sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from toys import CONFIG, NET, calls, draws, generator, phi, shaken, shapes, tensor, train, trainer

from edgegen.core.graph import Batch, Objective
from edgegen.core.samplers import CascadeSampler, alphas_bar, clean_image, mean_gates, trailing
from edgegen.evidence.distances import Moments, frechet
from edgegen.families.cas_dm import CasDm, Config, gate_loss
from edgegen.families.metrics import METRICS
from edgegen.families.unet import UNet, UNetConfig
from edgegen.training.loop import Trainer


def batch(config: Config = CONFIG, count: int = 8, seed: int = 0) -> Batch:
    return Batch(tensor(shapes(count, config.size)), torch.zeros(count, config.classes), torch.Generator().manual_seed(seed))


# 1. Gradient isolation


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_1_losses_of_phi_never_reach_theta(norm: Any) -> None:
    model = shaken(replace(CONFIG, theta=replace(NET, norm=norm), phi=replace(NET, norm=norm)))
    data = batch()
    model.theta_loss(data)
    model.phi_loss(data).backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in model.networks["theta"].named_parameters() if p.grad is not None] == []
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.networks["phi"].parameters())


def test_1_the_noise_loss_never_reaches_phi() -> None:
    model = shaken()
    model.theta_loss(batch()).backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in model.networks["phi"].named_parameters() if p.grad is not None] == []
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.networks["theta"].parameters())


@pytest.mark.parametrize("which", ["gate", "image"])
def test_1_the_gate_loss_moves_the_gate_head_and_the_others_the_image_head(which: str) -> None:
    model = shaken()
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
    cut = 3 * NET.patch**2  # rows of the head before this make the image (pixel_shuffle keeps channels together)
    for grad in (p.grad for p in trunk.head.parameters()):
        assert grad is not None
        moved, still = (grad[cut:], grad[:cut]) if which == "gate" else (grad[:cut], grad[cut:])
        assert (moved != 0).all()
        assert (still == 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.middle.parameters())


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


@pytest.mark.parametrize(("kind", "weight", "norm"), [(CasDm, 0.1, "batch"), (CasDm, 0.1, "group"), (CasDm, 100.0, "batch"),
                                                      (CasDm, 0.0, "batch"), (Greedy, 0.1, "batch")])
def test_2_theta_moves_alike_whatever_phi_does(alone: dict[str, Any], kind: type[CasDm], weight: float, norm: str) -> None:
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
    return alpha.sqrt() * (1 - before) / (1 - now), before.sqrt() * beta / (1 - now), beta, alpha, now


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_3_mixing_means_is_mixing_clean_images(schedule: str) -> None:
    rng = torch.Generator().manual_seed(0)
    x, eps, refined, images = (torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4))
    gate = torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64)
    for a, c, beta, alpha, bar in zip(*coefficients(schedule, 1000), strict=True):
        if bar < 1e-5:
            continue  # x0 of the closed form reaches 2e4 there, and float64's own rounding the limit
        coarse = clean_image(x, eps, bar, "epsilon")
        mean_eps = (x - beta / (1 - bar).sqrt() * eps) / alpha.sqrt()
        assert (mean_eps - (a * x + c * coarse)).abs().max() < 1e-10
        mixed = gate * refined + (1 - gate) * coarse
        mean = gate * (a * x + c * refined) + (1 - gate) * mean_eps
        assert (mean - (a * x + c * mixed)).abs().max() < 1e-10
        wanted = a * x + c * images
        assert torch.allclose((wanted - mean).square(), c**2 * (images - mixed).square(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_3_gate_loss_is_the_bounded_form_with_the_papers_minimiser(prediction: str) -> None:
    rng = torch.Generator().manual_seed(0)
    images, eps, guess, refined = (torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(4))
    gate = torch.rand(4, 1, 8, 8, generator=rng, dtype=torch.float64)
    for bar in (0.999, 0.5, 0.01):
        signal = torch.full((4, 1, 1, 1), bar, dtype=torch.float64)
        x = bar**0.5 * images + (1 - bar) ** 0.5 * eps
        predicted = guess if prediction == "epsilon" else (guess - (1 - bar) ** 0.5 * x) / bar**0.5
        coarse = clean_image(x, predicted, signal, prediction)
        written = gate * bar**0.5 * (refined - images) + (1 - gate) * (1 - bar) ** 0.5 * (eps - guess)
        assert float(gate_loss(gate, refined, coarse, images, signal) - written.square().mean()) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_3_a_step_of_eta_1_is_the_posterior(schedule: str) -> None:
    """The sampler's one formula, at every timestep, against A_t x + c_t x_mix + sqrt(beta~_t) z."""
    bar = alphas_bar(schedule, 100)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    refined = torch.rand(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
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


# 4. Identity phi


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_4_untrained_phi_changes_no_sample(eta: float, bias: float) -> None:
    model = shaken(replace(CONFIG, gate_bias=bias))
    for tensor_ in phi(model).trunk.head.parameters():
        nn.init.zeros_(tensor_)
    x, draw = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)), draws((4, 3, 16, 16))
    plain = model.sampler_with(10, "eps", eta)(calls(model), x, {}, draw)
    assert plain.std() > 0.1
    for path in ("dynamic", "x0", "fixed"):
        gates = (0.7,) * 10 if path == "fixed" else ()
        assert (model.sampler_with(10, path, eta, gates)(calls(model), x, {}, draw) - plain).abs().max() <= 1e-5


# 5. Optimal gate


@pytest.mark.parametrize(("theta", "phi"), [(0.8, 0.2), (0.4, 0.4), (0.1, 0.0), (0.0, 0.3)])
def test_5_the_gate_weighs_branches_by_the_others_variance(theta: float, phi: float) -> None:
    rng = torch.Generator().manual_seed(0)
    images, a, b = (torch.randn(64, 3, 16, 16, generator=rng, dtype=torch.float64) for _ in range(3))
    coarse, refined, signal = images + theta * a, images + phi * b, torch.full((64, 1, 1, 1), 0.3, dtype=torch.float64)

    def loss(r: float) -> float:
        return float(gate_loss(torch.full((64, 1, 16, 16), r, dtype=torch.float64), refined, coarse, images, signal))

    best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-6}).x
    assert best == pytest.approx(theta**2 / (theta**2 + phi**2), abs=0.01)


# 6. Gaussian oracle sampler


@pytest.mark.parametrize(("steps", "eta"), [(10, 0.0), (50, 0.0), (250, 0.0), (1000, 0.0), (1000, 1.0)])
def test_6_an_exact_network_samples_its_gaussian(steps: int, eta: float, record_property: Any) -> None:
    """Data N(0.3, 0.5^2), whose clean image is not clipped on the path "x0"; the shortfall at few steps is discretisation."""
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
    images = sampler({"theta": exact, "phi": oracle}, rng.standard_normal((64, 1, 32, 32)), {},
                     lambda _: rng.standard_normal((64, 1, 32, 32)))
    low, middle, high = np.quantile(images, [0.16, 0.5, 0.84])  # not moved by the last clip to [-1, 1]
    found = (high - low) / (2 * 0.99446)
    record_property("standard deviation", found)
    assert middle == pytest.approx(mean, abs=0.01 if steps == 1000 else 0.05)
    assert abs(found - deviation) < (0.01 if steps == 1000 else 0.2)


# 7 is in test_metrics.py


# 8. Finite at t = T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_8_nothing_overflows_at_the_noisiest_timestep(schedule: Any, prediction: Any, dtype: torch.dtype) -> None:
    config = replace(CONFIG, schedule=schedule, prediction=prediction, timesteps=1000, metric_schedule="const")
    model = shaken(config)
    seen: list[Tensor] = []
    model.networks["phi"].register_forward_pre_hook(lambda _, inputs: seen.extend(i for i in inputs if i is not None))
    data = batch()
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        patch.setattr(torch, "randint", lambda low, high, size, generator: torch.full(size, high - 1))
        losses = [model.theta_loss(data), model.phi_loss(data)]
    assert len(seen) == 3 and all(s.isfinite().all() for s in seen) and seen[0].abs().max() <= 1 and (seen[2] == 1000).all()
    assert all(loss.isfinite() for loss in losses)
    sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.networks.parameters())
    model.networks.to(dtype)
    x, draw = torch.randn(2, 3, 16, 16, dtype=dtype), draws((2, 3, 16, 16), dtype)
    for eta in (0.0, 1.0):
        images = model.sampler_with(5, eta=eta)(calls(model), x, {}, draw)
        assert images.dtype == dtype and images.isfinite().all() and images.abs().max() <= 1


# 9. Effect test


def noised(model: CasDm, images: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """x_t, its noise, the timesteps and abar_t."""
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(t))
    signal = float(alphas_bar(model.config.schedule, model.config.timesteps)[t])
    return signal**0.5 * images + (1 - signal) ** 0.5 * eps, eps, torch.full((len(images),), float(t)), signal


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
def test_9_the_metric_loss_improves_the_metric_and_leaves_theta_alone(with_and_without: tuple[CasDm, CasDm], t: int) -> None:
    held = tensor(shapes(128, seed=2))
    signal = alphas_bar("linear", 100)[t]
    assert 0.1 <= signal <= 0.9
    (error, plain), (error_too, helped) = (judged(model, held, t) for model in with_and_without)
    assert error == error_too
    assert helped <= 0.95 * plain


def test_9_the_four_paths_can_be_compared(with_and_without: tuple[CasDm, CasDm], record_property: Any) -> None:
    model = with_and_without[1]
    start, draw = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(0)), draws((128, 3, 16, 16))
    wanted = features(tensor(shapes(512, seed=3)))
    gates = mean_gates(model.sampler_with(4), calls(model), start, {}, draw)
    assert len(gates) == 4 and all(0 < g < 1 for g in gates)
    found = {}
    for path in ("eps", "x0", "dynamic", "fixed"):
        sampler = model.sampler_with(4, path, gates=gates if path == "fixed" else ())
        images = sampler(calls(model), start, {}, draw)
        found[path] = frechet(features(images), wanted)
        record_property(f"FD {path}", found[path])
    assert len(set(found.values())) == 4 and all(np.isfinite(v) and v > 0 for v in found.values())


def features(images: Tensor) -> Moments:
    pooled = nn.functional.avg_pool2d(images, 4).flatten(1).numpy()
    return Moments.of(pooled)


# 10. Negative control: one network with both outputs


def dual_errors(weight: float) -> list[float]:
    """Noise errors after 30 steps of one network that predicts noise and clean image, the metric acting on the latter."""
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
        return [float((net(bar[t].sqrt() * held + (1 - bar[t]).sqrt() * eps, torch.full((32,), float(t)), None)[:, :3] - eps)
                      .square().mean()) for t in (10, 30, 60)]


def test_10_a_single_dual_output_network_is_changed_by_the_metric_and_the_cascade_is_not() -> None:
    plain, touched = dual_errors(0.0), dual_errors(1.0)
    assert all(abs(a - b) > 1e-3 * a for a, b in zip(plain, touched, strict=True))
    held, errors = tensor(shapes(32, seed=5)), []
    for weight in (0.0, 1.0):
        run = trainer(replace(CONFIG, prediction="epsilon", metric_weight=weight), shapes(16), steps=10)
        train(run)
        assert isinstance(run.generator, CasDm)
        errors.append([judged(run.generator, held, t)[0] for t in (10, 30, 60)])
    assert errors[0] == errors[1]
