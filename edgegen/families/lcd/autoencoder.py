"""The autoencoder AE-KL between images and latents with few channels
(docs/methods/latent-consistency.md, E.2.1), made of blocks that suit INT8 kernels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..unet import ACTIVATIONS, ConvNorm
from .config import CoderConfig


class Residual(nn.Module):
    """A residual block without an embedding, on x (b, c, h, w).

    It starts as its activation alone, which is the identity on outputs of a ReLU.
    """

    def __init__(self, channels: int, config: CoderConfig) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels, config.norm)
        self.second = ConvNorm(channels, channels, config.norm)
        self.act = ACTIVATIONS[config.activation]()
        last = self.second.conv if config.norm == "none" else self.second.norm
        for tensor in last.parameters():
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.second(self.act(self.first(x))))


class LatentEncoder(nn.Module):
    """images (b, channels, h, w) -> mean and log variance, each (b, z, h / factor, w / factor)."""

    def __init__(self, config: CoderConfig, channels: int, z: int) -> None:
        super().__init__()
        widths = config.widths
        self.act = ACTIVATIONS[config.activation]()
        self.fold = nn.PixelUnshuffle(config.patch) if config.patch > 1 else nn.Identity()
        self.stem = ConvNorm(channels * config.patch**2, widths[0], config.norm)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(w, config) for _ in range(config.blocks))) for w in widths
        )
        pairs = pairwise(widths)
        self.shrink = nn.ModuleList(ConvNorm(a, b, config.norm, stride=2) for a, b in pairs)
        self.head = nn.Conv2d(widths[-1], 2 * z, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.stem(self.fold(images)))
        for level, blocks in enumerate(self.blocks):
            h = blocks(self.act(self.shrink[level - 1](h)) if level else h)
        mean, logvar = self.head(h).float().chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)


class LatentDecoder(nn.Module):
    """x: latents (b, z, h, w), as the encoder's mean -> images (b, channels, h * factor, w *
    factor).
    """

    def __init__(self, config: CoderConfig, channels: int, z: int) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.act = ACTIVATIONS[config.activation]()
        self.stem = ConvNorm(z, widths[0], config.norm)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(w, config) for _ in range(config.blocks))) for w in widths
        )
        pairs = pairwise(widths)
        self.grow = nn.ModuleList(ConvNorm(a, b, config.norm) for a, b in pairs)
        self.head = nn.Conv2d(widths[-1], channels * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch) if config.patch > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.stem(x))
        for level, blocks in enumerate(self.blocks):
            if level:
                h = self.act(
                    self.grow[level - 1](F.interpolate(h, scale_factor=2.0, mode="nearest"))
                )
            h = blocks(h)
        return self.unfold(self.head(h))


class AutoEncoder(nn.Module):
    """The encoder and the decoder, which train together."""

    def __init__(self, config: CoderConfig, channels: int, z: int) -> None:
        super().__init__()
        self.encoder = LatentEncoder(config, channels, z)
        self.decoder = LatentDecoder(config, channels, z)

    def mode(self, images: Tensor) -> Tensor:
        """Return the most likely latents (b, z, h / factor, w / factor), which are the mean."""
        mean, _ = self.encoder(images)
        return mean

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw random latents, and return them with the KL divergence (b,) of their distribution
        from the standard normal, summed over all values of a latent.
        """
        mean, logvar = self.encoder(images)
        fresh = torch.randn(mean.shape, generator=generator, device=generator.device)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
        return mean + (0.5 * logvar).exp() * fresh, kl
