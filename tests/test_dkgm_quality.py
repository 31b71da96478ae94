"""What dkgm's stages give once trained, small (docs/methods/dkgm.md, D.3 tests 6 and 10): a mixture
in one dimension, and sharpness of images.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from dkgm_toys import generator, points, trained
from test_dkgm_bridge import mixture, mixture_distance
from torch import Tensor, nn
from toys import shapes, tensor

from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import BridgeSampler, power_levels
from edgegen.evidence.sharpness import sharpness
from edgegen.families.dkgm.debias import Bridge, bridge_loss, deviation
from edgegen.families.dkgm.family import Dkgm
from edgegen.families.dkgm.kernels import posterior_mean
from edgegen.families.unet import UNetConfig
from edgegen.workflows.generators import torch_pipeline

pytestmark = pytest.mark.slow

# test 6: a trained network in one dimension


class Small(nn.Module):
    """F of one number and its level."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([x, t[:, None]], dim=1))


@pytest.mark.parametrize(("weighting", "limit"), [("scaled", 0.04), ("image", 0.08)])
def test_6_a_trained_network_brings_a_mixture_back(weighting: str, limit: float) -> None:
    """In pixels, levels near the clean image hardly count: that weighting learns them later."""
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
        xi = torch.randn(x.shape, generator=rng)
        loss = bridge_loss(net, x, coarse, t, xi, Bridge(k, h), weighting)
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
    assert mixture_distance(made.flatten().double().numpy()) < limit


# test 10: what each stage adds

NET = UNetConfig(widths=(32, 32), embedding=16, patch=1)
PHOTOS = tensor(shapes(128, 8))


@cache
def done() -> Dkgm:
    """8x8, mode "dae", trained for seconds."""
    made = generator(size=8, coarse=NET, debias=NET, bandwidth=0.7, bank="exemplars", bank_size=64)
    trained(made, 240, rate=8e-3)
    return made


def test_10_the_second_stage_gives_back_the_sharpness_that_the_first_takes() -> None:
    made = done()
    call = torch_pipeline(made).call
    sharp = {
        steps: sharpness(Pipeline(made.latent, made.config.sampler(steps), call)(range(128)))
        for steps in (0, 1, 20)
    }
    real = sharpness(PHOTOS.numpy())
    assert sharp[0] < 0.6 * real
    assert sharp[0] < sharp[1] < sharp[20]
    assert abs(sharp[20] / real - 1) < 0.2


def test_10_stage_one_alone_is_the_same_generator_with_another_sampler() -> None:
    made = done()
    call = torch_pipeline(made).call
    coarse = Pipeline(made.latent, made.config.sampler(steps=0), {"coarse": call["coarse"]})
    assert coarse(range(3)).shape == (3, 3, 8, 8)
    one = Pipeline(made.latent, made.config.sampler(steps=1), call)(range(3))
    assert np.abs(one - coarse(range(3))).max() > 0.05


def test_a_narrow_kernel_returns_training_vectors_and_a_wide_one_does_not() -> None:
    """D.2.4: below a third of the distance between neighbours stage 2 can only copy."""
    flat = PHOTOS.flatten(1)
    apart = torch.cdist(flat, flat).fill_diagonal_(torch.inf).amin(1).median().item()
    shares = []
    for h in (apart / 12, apart):
        y = flat + h * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
        shares.append(
            (torch.cdist(posterior_mean(y, flat, h), flat).amin(1) < 0.1 * apart)
            .float()
            .mean()
            .item()
        )
    assert shares[0] > 0.95 and shares[1] < 0.7, shares
