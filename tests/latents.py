"""Small latent consistency generators that several tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from toys import shake, shapes, tensor

from edgegen.core.graph import Batch
from edgegen.families.lcd.config import LcdConfig
from edgegen.families.lcd.family import LatentConsistency
from edgegen.families.lcd.recipes import FAMILY

TINY: LcdConfig = replace(FAMILY.recipes["tiny"]().config, classes=2)


def lcd(seed: int = 0, **changes: Any) -> LatentConsistency:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentConsistency(replace(TINY, **changes))


def shaken(seed: int = 0, scale: float = 0.1, **changes: Any) -> LatentConsistency:
    """One whose zero-initialised layers and statistics are random too, so that nothing is trivially
    equal.
    """
    made = lcd(seed, **changes)
    shake(made.networks, seed + 1, scale)
    return made


def batches(
    count: int, size: int = 16, seed: int = 0, classes: int = 2, pick: int = 16
) -> Iterator[Batch]:
    """Random discs and boxes."""
    photos = shapes(128, size, seed)
    images, labels = tensor(photos), torch.eye(2)[torch.from_numpy(photos.labels)]
    for k in range(count):
        rng = torch.Generator().manual_seed(1000 * seed + k)
        rows = torch.randint(len(images), (pick,), generator=rng)
        yield Batch(images[rows], labels[rows] if classes else torch.zeros(pick, 0), rng)


def fit(
    loss: Callable[[Batch], torch.Tensor], params: Any, data: Iterator[Batch], rate: float
) -> list[float]:
    """Adam until the data ends, the rate falling along the second half; every loss."""
    seen = list(data)
    optimizer, losses = torch.optim.Adam(params, lr=rate, betas=(0.9, 0.99)), []
    for k, batch in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - k / len(seen)))
        optimizer.zero_grad()
        found = loss(batch)
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        losses.append(float(found.detach()))
    return losses
