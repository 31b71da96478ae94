"""Small dkgm generators, and a loop that trains them as the engine would: one stage after the
other, each with its `begin`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from toys import shapes, tensor

from edgegen.core.graph import Batch
from edgegen.families.dkgm.config import DkgmConfig
from edgegen.families.dkgm.family import Dkgm
from edgegen.families.unet import UNetConfig

NET = UNetConfig(widths=(16, 32), embedding=16)
TINY = DkgmConfig(
    size=16,
    classes=2,
    coarse=NET,
    debias=NET,
    bandwidth=0.5,
    steps=5,
    kde_centroids=4,
    bank_size=16,
    bank_fit=64,
)


def generator(seed: int = 0, **change: Any) -> Dkgm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dkgm(replace(TINY, **change))


def batches(made: Dkgm, size: int = 32, seed: int = 0, photos: int = 128) -> Iterator[Batch]:
    """For ever: the shapes in a random order, this step's generator with each."""
    images, classes = tensor(shapes(photos, made.config.size)), made.config.classes
    labels = torch.eye(classes)[torch.arange(photos) % 2] if classes else torch.zeros(photos, 0)
    step = 0
    while True:
        rng = torch.Generator().manual_seed(seed * 10_000 + step)
        picks = torch.randperm(photos, generator=rng)[:size]
        yield Batch(images[picks], labels[picks], rng)
        step += 1


def trained(made: Dkgm, steps: int, rate: float = 3e-3, seed: int = 0) -> dict[str, list[float]]:
    """Train in place for `steps` in all; the losses of each objective."""
    losses: dict[str, list[float]] = {}
    for number, objective in enumerate(made.objectives()):
        stream = batches(made, seed=seed + number)
        made.networks.train()
        if objective.begin is not None:
            objective.begin(stream)
        optimizer = torch.optim.Adam(objective.params, lr=rate, betas=objective.betas)
        count = round(steps * (objective.span[1] - objective.span[0]))
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
        losses[objective.name] = []
        for _ in range(count):
            loss = objective.loss(next(stream))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(objective.params, objective.clip)
            optimizer.step()
            falling.step()
            losses[objective.name].append(float(loss.detach()))
    made.networks.eval()
    return losses


def points(values: Tensor) -> Tensor:
    """(n,) or (n, d) -> (n, 1, 1, d): what a sampler moves."""
    return values.reshape(len(values), 1, 1, -1)
