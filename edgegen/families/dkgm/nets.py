"""The two backbones that docs/methods/dkgm.md compares: a U-Net, and a denoising autoencoder of the
same blocks without its skips.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ..unet import (
    ACTIVATIONS,
    Attention,
    Block,
    ConvNorm,
    Embed,
    UNet,
    UNetConfig,
    entrance,
    silence,
)
from .config import DkgmConfig


class Dae(nn.Module):
    """A denoising autoencoder: x (b, cin, h, w), t (b,), label (b, classes) -> (b, out, h, w).

    Without skips, it loses all that its coarsest level does not hold.
    """

    def __init__(self, config: UNetConfig, cin: int, out: int, classes: int) -> None:
        super().__init__()
        widths, self.patch = config.widths, config.patch
        self.embed, self.stem, self.act = entrance(config, cin, classes)

        def level(width: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, width, config) for _ in range(config.blocks))

        self.down = nn.ModuleList(level(w) for w in widths)
        self.shrink = nn.ModuleList(
            ConvNorm(a, b, config.norm, stride=2) for a, b in pairwise(widths)
        )
        self.attention = Attention(widths[-1]) if config.attention else nn.Identity()
        self.grow = nn.ModuleList(ConvNorm(b, a, config.norm) for a, b in pairwise(widths))
        self.up = nn.ModuleList(level(w) for w in widths)
        self.head = nn.Conv2d(widths[0], out * self.patch**2, 3, padding=1)
        silence(self.head)

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None, told: Tensor | None = None
    ) -> Tensor:
        e = self.embed(t, label, told)
        h = self.act(self.stem(F.pixel_unshuffle(x, self.patch)))
        for k, blocks in enumerate(self.down):
            if k:
                h = self.act(self.shrink[k - 1](h))
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, e)
        h = self.attention(h)
        for k in reversed(range(len(self.up))):
            for block in self.up[k]:  # type: ignore[attr-defined]
                h = block(h, e)
            if k:
                h = self.act(self.grow[k - 1](F.interpolate(h, scale_factor=2.0, mode="nearest")))
        return F.pixel_shuffle(self.head(h), self.patch)


BACKBONES: dict[str, type[UNet] | type[Dae]] = {"unet": UNet, "dae": Dae}


class Denoiser(nn.Module):
    """g of stage 1: y (b, c, h, w), label -> E[x | y]. It takes no time, because there is only one
    bandwidth.
    """

    def __init__(self, config: DkgmConfig) -> None:
        super().__init__()
        self.trunk = BACKBONES[config.coarse_net](
            config.coarse, config.channels, config.channels, config.classes
        )
        self.scale = (1 + config.bandwidth**2) ** -0.5

    def forward(self, y: Tensor, label: Tensor | None, told: Tensor | None = None) -> Tensor:
        return self.trunk(y * self.scale, y[:, 0, 0, 0] * 0, label, told)


class CoarseEncoder(nn.Module):
    """x (b, c, h, w) -> code (b, code, h / cell, w / cell). Channels have unit variance, which
    gives the bandwidth a fixed meaning.
    """

    def __init__(self, config: DkgmConfig) -> None:
        super().__init__()
        net, width = config.coarse, config.coarse.widths[-1]
        self.cell = config.code_cell
        self.stem = ConvNorm(config.channels * self.cell**2, width, net.norm)
        self.act = ACTIVATIONS[net.activation]()
        self.body = ConvNorm(width, width, net.norm)
        self.head = nn.Conv2d(width, config.code, 1)
        self.unit = nn.BatchNorm2d(config.code, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.stem(F.pixel_unshuffle(x, self.cell)))
        return self.unit(self.head(self.act(h + self.body(h))))


class CoarseDecoder(nn.Module):
    """code (b, code, h / cell, w / cell), label -> image (b, c, h, w)."""

    def __init__(self, config: DkgmConfig) -> None:
        super().__init__()
        net, width = config.coarse, config.coarse.widths[-1]
        self.cell = config.code_cell
        self.embed = Embed(net, config.classes)
        self.stem = ConvNorm(config.code, width, net.norm)
        self.act = ACTIVATIONS[net.activation]()
        self.blocks = nn.ModuleList(Block(width, width, net) for _ in range(2 * net.blocks))
        self.head = nn.Conv2d(width, config.channels * self.cell**2, 3, padding=1)

    def forward(self, y: Tensor, label: Tensor | None, told: Tensor | None = None) -> Tensor:
        e = self.embed(y[:, 0, 0, 0] * 0, label, told)
        h = self.act(self.stem(y))
        for block in self.blocks:
            h = block(h, e)
        return F.pixel_shuffle(self.head(h), self.cell)
