"""Cas-DM's sampler against diffusers, its graphs, its config and its recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import CONFIG, draws, generator, shaken

from edgegen.core.samplers import CascadeSampler, alphas_bar, trailing
from edgegen.families.cas_dm import FAMILY
from edgegen.families.cas_dm.losses import METRIC_WEIGHTS

# The sampler against diffusers


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("steps", "eta"), [(10, 0.0), (10, 1.0), (50, 0.4), (100, 1.0)])
def test_the_eps_path_is_diffusers_ddim(
    schedule: str, prediction: str, steps: int, eta: float
) -> None:
    """Our timesteps are 1..T with abar[0] = 1, theirs 0..T-1; they too start again from the clipped
    image.
    """
    from diffusers import DDIMScheduler

    bar, network, x, draw = oracle(schedule)
    theirs = DDIMScheduler(
        100,
        prediction_type="epsilon" if prediction == "epsilon" else "v_prediction",
        clip_sample=True,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = (
        torch.from_numpy(bar[1:]),
        torch.ones((), dtype=torch.float64),
    )
    theirs.set_timesteps(steps)
    timesteps = trailing(100, steps)
    assert [t - 1 for t in timesteps] == theirs.timesteps.tolist()
    sampler = CascadeSampler(timesteps, tuple(bar[list(timesteps)]), prediction, "eps", eta=eta)
    ours = sampler({"theta": network}, x, {}, draw)
    for k, t in enumerate(theirs.timesteps.tolist()):
        predicted = network(x, torch.full((2,), t + 1.0, dtype=torch.float64))
        x = theirs.step(
            predicted, t, x, eta=eta, use_clipped_model_output=True, variance_noise=draw(f"step{k}")
        ).prev_sample
    assert (ours - x.clip(-1, 1)).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_eta_1_at_every_timestep_is_diffusers_ddpm(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    bar, network, x, draw = oracle(schedule)
    theirs = DDPMScheduler(100, variance_type="fixed_small", clip_sample=True)
    theirs.alphas_cumprod, theirs.one = (
        torch.from_numpy(bar[1:]),
        torch.ones((), dtype=torch.float64),
    )
    timesteps = tuple(range(100, 0, -1))
    sampler = CascadeSampler(timesteps, tuple(bar[list(timesteps)]), "epsilon", "eps", eta=1.0)
    ours = sampler({"theta": network}, x, {}, draw)
    for k, t in enumerate(range(99, -1, -1)):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, k=k, **__: draw(f"step{k}"))
        x = theirs.step(
            network(x, torch.full((2,), t + 1.0, dtype=torch.float64)), t, x
        ).prev_sample
    assert (ours - x.clip(-1, 1)).abs().max() < 1e-9


def oracle(schedule: str) -> tuple[np.ndarray, Callable[..., Any], Tensor, Callable[[str], Tensor]]:
    """A schedule, a smooth network, start noise and draws, in float64."""
    shape = (2, 3, 8, 8)
    start = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) + 0.01 * t[:, None, None, None]

    return alphas_bar(schedule, 100), network, start, draws(shape, torch.float64)


# The family


def test_config_refuses_what_cannot_be_built() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"size": 18}, r"size 18 must divide by 4 \(patch and levels of theta\)"),
        ({"metric": "lpips"}, "unknown metric 'lpips'; known: gradient, ms_ssim, pdist, none"),
        ({"size": 4}, "metric 'gradient' needs 8 pixels a side, got size 4"),
        ({"metric_schedule": "later"}, "unknown metric_schedule 'later'"),
        ({"metric_weight": float("nan")}, "metric_weight must be 0 or more"),
        ({"metric_weight": -1.0}, "metric_weight must be 0 or more"),
        ({"gate_bias": float("inf")}, "gate_bias finite"),
        ({"classes": -1}, "classes must be 0 or more"),
        ({"steps": 101}, "steps must be between 1 and 100, got 101"),
        ({"timesteps": 20, "steps": 4}, "the linear schedule needs more than 20 timesteps, got 20"),
        ({"schedule": "sqrt"}, "unknown schedule 'sqrt'; known: cosine, ldm, linear"),
        ({"prediction": "x0"}, "prediction 'x0'"),
        ({"path": "fixed"}, 'path "fixed" needs a gate'),
        ({"mode": "apart"}, "unknown mode 'apart'; known: joint, frozen"),
        ({"gate": "softmax"}, "unknown gate 'softmax'; known: sigmoid, clip, linear, scalar, none"),
        ({"gate_loss": "mean"}, "unknown gate_loss 'mean'; known: bounded, posterior"),
        ({"phi_input": "xt"}, "unknown phi_input 'xt'"),
        (
            {"metric_warmup": 1.5},
            r"metric_warmup must be in \[0, 1\], a share of phi's steps, got 1.5",
        ),
        ({"metric_warmup": float("nan")}, "metric_warmup must be in"),
        ({"window": (26, 49)}, r"no timestep of \(100, 75, 50, 25\) is in the window \(26, 49\)"),
        ({"window": (75, 50)}, "is in the window"),
    ]
    for change, text in cases:
        with pytest.raises(ValueError, match=text):
            replace(CONFIG, **change)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("phi_input", ["x0", "x0+xt"])
@pytest.mark.parametrize("path", ["dynamic", "eps", "x0"])
def test_graphs_are_pure_and_folded_and_give_the_networks_images(
    classes: int, phi_input: Any, path: Any
) -> None:
    model = shaken(replace(CONFIG, classes=classes, phi_input=phi_input, path=path))
    graphs = model.graphs()
    assert set(graphs) == ({"theta"} if path == "eps" else {"theta", "phi"})
    for name, graph in graphs.items():
        assert not any(isinstance(m, nn.BatchNorm2d) for m in graph.module.modules())
        assert any(isinstance(m, nn.BatchNorm2d) for m in model.networks[name].modules())
        assert not any(p.requires_grad for p in graph.module.parameters())
        inputs = [torch.randn(spec.sized(batch=3)) for spec in graph.inputs]
        wanted = model.networks[name].eval()(*inputs)
        assert wanted.shape == graph.output.sized(batch=3)
        torch.testing.assert_close(graph.module(*inputs), wanted, atol=2e-5, rtol=1e-4)
    condition = {k: torch.from_numpy(v) for k, v in model.latent.condition([0, 1]).items()}
    call = {name: torch.no_grad()(graph.module) for name, graph in graphs.items()}
    images = model.sampler(
        call, torch.from_numpy(model.latent.start([0, 1])), condition, draws((2, 3, 16, 16))
    )
    assert images.shape == (2, 3, 16, 16) and images.abs().max() <= 1


@pytest.mark.parametrize("name", sorted(FAMILY.recipes))
def test_recipes_build(name: str) -> None:
    recipe = FAMILY.recipes[name]()
    # shapes without memory: the GPU recipes have a hundred million parameters
    with torch.device("meta"):
        model = FAMILY.build(recipe.config)
    assert [o.name for o in model.objectives()] == ["theta", "phi"]
    assert model.latent.classes == recipe.config.classes
    assert (FAMILY.recipes[name].__doc__ or "").strip()


def test_w_m_follows_its_formulas() -> None:
    signal = torch.tensor([0.01, 0.049, 0.05, 0.5, 0.9, 0.999])
    kinds = ("const", "snr", "cutoff")
    weights = {kind: METRIC_WEIGHTS[kind](signal) for kind in kinds}
    assert weights["const"].tolist() == [1] * 6
    assert weights["cutoff"].tolist() == [0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(weights["snr"], (signal / (1 - signal)).clamp(max=5) / 5)


def test_a_direct_phi_is_not_the_identity() -> None:
    model = generator(replace(CONFIG, residual=False, phi_input="x0"))
    refined = model.networks["phi"](
        torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16), torch.ones(1)
    )
    assert (refined[:, :-1] == 0).all()
    assert refined[:, -1:].mean().item() == pytest.approx(torch.tensor(-2.0).sigmoid().item())
