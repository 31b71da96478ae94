"""Small generated data and small generators that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgegen.core.graph import Batch
from edgegen.families import Recipe
from edgegen.families.cas_dm import CasDm, CasDmConfig, Refiner
from edgegen.families.unet import UNetConfig
from edgegen.training.data import Photos
from edgegen.training.loop import Trainer

NET = UNetConfig(widths=(16, 32), embedding=16)
CONFIG = CasDmConfig(
    size=16, classes=0, theta=NET, phi=NET, schedule="linear", timesteps=100, steps=4
)


def shapes(count: int, size: int = 16, seed: int = 0) -> Photos:
    """Discs (label 0) and boxes (label 1) in random colours, places and sizes on a random
    ground.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = np.empty((count, size, size, 3), np.uint8)
    y, x = np.mgrid[:size, :size]
    for image, label in zip(pixels, labels, strict=True):
        cx, cy = rng.uniform(0.3, 0.7, 2) * size
        radius = rng.uniform(0.15, 0.3) * size
        far = np.hypot(x - cx, y - cy) if label == 0 else np.maximum(abs(x - cx), abs(y - cy))
        ground, colour = rng.integers(0, 80, 3), rng.integers(130, 256, 3)
        image[:] = np.where((far <= radius)[..., None], colour, ground)
    return Photos(pixels, labels.astype(np.int64), ("disc", "box"))


def tensor(photos: Photos) -> torch.Tensor:
    """(n, 3, size, size) in [-1, 1]."""
    return torch.from_numpy(photos.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def generator(config: CasDmConfig = CONFIG, seed: int = 0) -> CasDm:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CasDm(config)


def shaken(config: CasDmConfig = CONFIG, seed: int = 0, scale: float = 0.1) -> CasDm:
    """A generator whose zero-initialised layers and statistics are random too, so that nothing is
    trivially equal.
    """
    made = generator(config, seed)
    shake(made.networks, seed + 1, scale)
    return made


def shake(networks: nn.Module, seed: int, scale: float) -> None:
    """Add noise to every weight and statistic; variances only grow."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in networks.state_dict().items():
            if value.is_floating_point():
                value.add_(
                    (torch.rand(value.shape, generator=rng) - (0 if "running_var" in name else 0.5))
                    * scale
                )


def trainer(
    config: CasDmConfig = CONFIG,
    photos: Photos | None = None,
    steps: int = 20,
    seed: int = 0,
    **recipe: Any,
) -> Trainer:
    """A run of a fresh generator; `recipe` overrides batch, rate, warmup, ema or precision."""
    plan = replace(Recipe(config, images=1, batch=8, warmup=5, ema=0.9, precision="fp32"), **recipe)
    plan = replace(plan, images=steps * plan.batch)
    return Trainer.start(generator(config, seed), plan, photos or shapes(64, config.size), seed)


def train(run: Trainer) -> list[dict[str, float]]:
    return list(run.run())


def calls(model: CasDm) -> dict[str, Callable[..., Any]]:
    """The networks in eval mode and without gradients, as a sampler calls them."""
    model.networks.eval()

    def call(name: str) -> Callable[..., Any]:
        def run(**inputs: Tensor) -> Any:
            with torch.no_grad():
                return model.networks[name](**inputs)

        return run

    return {name: call(name) for name in ("theta", "phi")}


def phi(model: CasDm) -> Refiner:
    found = model.networks["phi"]
    assert isinstance(found, Refiner)
    return found


def draws(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Callable[[str], Tensor]:
    """The same noise for the same stream name."""
    return lambda stream: torch.randn(
        shape, generator=torch.Generator().manual_seed(sum(stream.encode()))
    ).to(dtype)


def batch(config: CasDmConfig = CONFIG, count: int = 8, seed: int = 0) -> Batch:
    return Batch(
        tensor(shapes(count, config.size)),
        torch.zeros(count, config.classes),
        torch.Generator().manual_seed(seed),
    )
