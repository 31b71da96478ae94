"""dkgm's two stages trained small (spec D.3 tests 6 and 10): losses, order, banks of every mode, and what each stage adds."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dkgm_toys import TINY, batches, generator, points, trained
from test_dkgm_bridge import mixture, mixture_distance
from torch import Tensor, nn
from toys import shapes, tensor

from edgegen.cli.source import torch_pipeline
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import BridgeSampler, power_levels
from edgegen.evidence.sharpness import sharpness
from edgegen.families.dkgm.debias import bridge_loss, deviation
from edgegen.families.dkgm.family import Dkgm

# test 6: a trained network in one dimension


class Small(nn.Module):
    """F of one number and its level."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([x, t[:, None]], dim=1))


@pytest.mark.parametrize("weighting", ["scaled", "image"])
def test_6_a_trained_network_brings_a_mixture_back(weighting: str) -> None:
    torch.manual_seed(0)
    h, k, rng = 0.8, 0.3, torch.Generator().manual_seed(0)
    data = torch.from_numpy(mixture(50_000)).float()[:, None]
    net = Small()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        x = data[torch.randint(len(data), (512,), generator=rng)]
        coarse = x + h * torch.randn(x.shape, generator=rng)
        t = 1 - torch.rand(len(x), generator=rng)
        loss = bridge_loss(net, x, coarse, t, torch.randn(x.shape, generator=rng), k, h, weighting)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        falling.step()

    def debias(x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            level = t / 1000
            flat = x[:, 0, 0]
            return points(flat - deviation(level, h, k)[:, None] * net(flat, level))

    start = points(data[:20_000] + h * torch.randn(20_000, 1, generator=rng))
    sampler = BridgeSampler(power_levels(20, 2.0), k)
    made = sampler.refine(debias, start, {}, lambda _: torch.randn(start.shape, generator=rng))
    assert mixture_distance(start.flatten().numpy()) > 0.15
    assert mixture_distance(made.flatten().double().numpy()) < 0.04


def test_both_weightings_have_one_optimum_and_differ_by_the_scale() -> None:
    x, coarse, xi = torch.zeros(4, 3), torch.ones(4, 3), torch.zeros(4, 3)
    t = torch.tensor([0.25, 0.5, 0.75, 1.0])
    out = deviation(t, 0.7, 0.3)

    def right(y: Tensor, t: Tensor) -> Tensor:
        return y / out[:, None]  # x is 0, so F = X_t / c_out

    for weighting in ("scaled", "image"):
        assert bridge_loss(right, x, coarse, t, xi, 0.3, 0.7, weighting) < 1e-12
    shifted = [bridge_loss(lambda y, t: right(y, t) + 1, x, coarse, t, xi, 0.3, 0.7, w) for w in ("scaled", "image")]
    assert shifted[0].item() == pytest.approx(1) and shifted[1].item() == pytest.approx(out.square().mean().item())


# the stages


def test_a_fresh_generator_s_second_stage_changes_nothing_and_its_loss_is_one() -> None:
    made = generator()
    stream = batches(made)
    for objective in made.objectives():
        assert objective.begin is not None
        objective.begin(stream)
    made.networks.train()
    found = np.mean([float(made.debias_loss(next(stream)).detach()) for _ in range(10)])
    assert found == pytest.approx(1, abs=0.15)  # of F, before anything is learned: so the spread is the data's
    graphs, x = made.graphs(), torch.randn(2, 3, 16, 16)
    label = torch.eye(2)
    for t in (0.0, 500.0, 1000.0):
        torch.testing.assert_close(graphs["debias"].module(x, torch.full((2,), t), label), x)


def test_at_level_zero_the_image_stays_whatever_is_learned() -> None:
    made = done()
    x = torch.randn(2, 3, 16, 16)
    graph = made.graphs()["debias"].module
    assert torch.equal(graph(x, torch.zeros(2), torch.eye(2)), x)
    assert not torch.allclose(graph(x, torch.full((2,), 500.0), torch.eye(2)), x, atol=0.01)


@cache
def done() -> Dkgm:
    """The default mode, trained for seconds."""
    made = generator(bandwidth=0.7)
    trained(made, 320)
    return made


def test_stage_one_runs_first_and_stage_two_sees_it_still() -> None:
    first, second = generator().objectives()
    assert (first.name, first.span, second.name, second.span) == ("coarse", (0.0, 0.25), "debias", (0.25, 1.0))
    made = generator()
    losses = trained(made, 40)
    assert len(losses["coarse"]) == 10 and len(losses["debias"]) == 30
    before = {k: v.clone() for k, v in made.networks.state_dict().items() if not k.startswith("debias")}
    made.networks.train()
    made.debias_loss(next(batches(made))).backward()  # type: ignore[no-untyped-call]
    assert all(net.training for net in made.networks.modules())
    assert all(torch.equal(v, made.networks.state_dict()[k]) for k, v in before.items())  # batch norms and bank as well
    assert all(p.grad is None for p in made.networks["coarse"].parameters())


@pytest.mark.parametrize("change", [
    {"mode": "pixel", "bank": "exemplars"},
    {"mode": "pixel", "kernel": "epanechnikov", "classes": 0},
    {"mode": "dae", "bank": "exemplars", "coarse_net": "unet", "debias_net": "dae", "weighting": "image", "times": "grid"},
    {"mode": "dae", "kernel": "radial", "bandwidth": 8.0, "noise": 0.0, "solver": "heun", "power": 1.0},
    {"mode": "latent", "bank": "exemplars", "cond_coarse": True},
    {"mode": "latent", "bank": "centroids", "schedule": "approximation", "variance": "lower", "classes": 0},
])
def test_every_mode_learns_and_is_a_function_of_its_seeds(change: dict[str, Any]) -> None:
    made = generator(**change)
    losses = trained(made, 60)
    assert list(losses) == (["debias"] if change["mode"] == "pixel" else ["coarse", "debias"])
    for name, values in losses.items():
        assert np.isfinite(values).all() and np.mean(values[-5:]) < 0.95 * np.mean(values[:5]), (name, values[:5], values[-5:])
    pipeline = torch_pipeline(made)
    images = pipeline(range(6))
    assert images.shape == (6, 3, 16, 16) and np.abs(images).max() <= 1 and images.std(0).mean() > 0.02
    np.testing.assert_allclose(pipeline([4]), images[4:5], atol=1e-5)
    again = generator(**change)
    trained(again, 60)
    np.testing.assert_array_equal(torch_pipeline(again)(range(6)), images)
    assert "encoder" not in made.shipped


def test_labels_choose_among_the_class_s_own_vectors() -> None:
    """Mode "pixel" with a narrow kernel shows the bank: every draw is next to a disc for label 0, to a box for label 1."""
    made = generator(mode="pixel", bank="exemplars", bandwidth=0.01)
    trained(made, 1)
    pipeline = Pipeline(made.latent, made.config.sampler(steps=0), torch_pipeline(made).call)
    photos = shapes(128, 16)
    flat = tensor(photos).flatten(1)
    for label in range(2):
        drawn = torch.from_numpy(pipeline(range(24), label)).flatten(1)
        assert (photos.labels[torch.cdist(drawn, flat).argmin(1).numpy()] == label).all()


# test 10: what each stage adds


def test_10_the_second_stage_gives_back_the_sharpness_that_the_first_takes() -> None:
    made = done()
    call = torch_pipeline(made).call
    sharp = {steps: sharpness(Pipeline(made.latent, made.config.sampler(steps), call)(range(128))) for steps in (0, 5, 20)}
    real = sharpness(tensor(shapes(128, 16)).numpy())
    print(sharp, real)
    assert sharp[0] < 0.6 * real
    assert sharp[0] < sharp[5]
    assert abs(sharp[20] / real - 1) < 0.2


def test_10_stage_one_alone_is_the_same_generator_with_another_sampler() -> None:
    made = done()
    call = torch_pipeline(made).call
    coarse = Pipeline(made.latent, made.config.sampler(steps=0), {"coarse": call["coarse"]})
    assert coarse(range(3)).shape == (3, 3, 16, 16)
    one = Pipeline(made.latent, made.config.sampler(steps=1), call)(range(3))
    assert np.abs(one - coarse(range(3))).max() > 0.05


def test_a_narrow_kernel_returns_training_vectors_and_a_wide_one_does_not() -> None:
    """Spec D.2.4: below a third of the distance between neighbours stage 2 can only copy."""
    from edgegen.families.dkgm.kernels import posterior_mean

    flat = tensor(shapes(128, 16)).flatten(1)
    apart = torch.cdist(flat, flat).fill_diagonal_(torch.inf).amin(1).median().item()
    shares = []
    for h in (apart / 6, apart * 2):
        y = flat + h * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
        back = torch.cdist(posterior_mean(y, flat, h), flat).amin(1) < 0.1 * apart
        shares.append(back.float().mean().item())
    assert shares[0] > 0.99 and TINY.bandwidth < apart
