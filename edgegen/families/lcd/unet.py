"""The latent U-Net: the blocks of families/unet.py with transformers between them; its way down is
a separate module that control can copy.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.samplers import alphas_bar
from ..unet import ACTIVATIONS, Block, ConvNorm, Embed
from .attention import TRANSFORMERS, ContextEncoder, TokenSet
from .config import LcdConfig

W_NUMBERS = 256  # length of the sinusoidal embedding of w


class BlockCondition(NamedTuple):
    """The condition of a block: e (b, embedding), which embeds t and for a student also w, and the
    context tokens.
    """

    e: Tensor
    context: TokenSet


def sinusoid(w: Tensor) -> Tensor:
    """Embed w (b,) -> (b, W_NUMBERS) as sines and cosines of 1000 w
    (docs/methods/latent-consistency.md, E.2.4).
    """
    half = W_NUMBERS // 2
    frequencies = torch.exp(torch.arange(half, device=w.device) * (-math.log(10_000) / half))
    angle = 1000 * w[:, None] * frequencies[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Stage(nn.Module):
    """The residual blocks of one level, each followed by a transformer at sides with attention."""

    def __init__(self, config: LcdConfig, level: int, sizes: list[int]) -> None:
        super().__init__()
        width, side = config.unet.widths[level], (config.side // config.unet.patch) >> level
        kind = TRANSFORMERS[config.transformer]
        self.blocks = nn.ModuleList(Block(size, width, config.unet) for size in sizes)
        self.attention = nn.ModuleList(
            kind(width, config.head, config.context, config.unet.norm)
            for _ in sizes
            if side in config.attend
        )

    def forward(self, x: Tensor, condition: BlockCondition) -> Tensor:
        for k, block in enumerate(self.blocks):
            x = block(x, condition.e)
            if self.attention:
                x = self.attention[k](x, condition.context)
        return x


class Trunk(nn.Module):
    """Stem, way down and middle: x (b, z, h, w) -> the features of each level, finest first, and of
    the middle.
    """

    def __init__(self, config: LcdConfig) -> None:
        super().__init__()
        widths, net = config.unet.widths, config.unet
        self.patch = net.patch
        self.act = ACTIVATIONS[net.activation]()
        self.stem = ConvNorm(config.z * net.patch**2, widths[0], net.norm)
        self.down = nn.ModuleList(
            Stage(config, level, [w] * net.blocks) for level, w in enumerate(widths)
        )
        pairs = pairwise(widths)
        self.shrink = nn.ModuleList(ConvNorm(a, b, net.norm, stride=2) for a, b in pairs)
        self.middle = Stage(config, len(widths) - 1, [widths[-1]])

    def forward(
        self, x: Tensor, condition: BlockCondition, hint: Tensor | None = None
    ) -> list[Tensor]:
        h = self.act(self.stem(F.pixel_unshuffle(x, self.patch)))
        if hint is not None:
            h = h + hint
        features = []
        for level, stage in enumerate(self.down):
            h = stage(self.act(self.shrink[level - 1](h)) if level else h, condition)
            features.append(h)
        return [*features, self.middle(h, condition)]


class LatentUNet(nn.Module):
    """x (b, z, h, w), t (b,) in [0, T), label (b, classes), vector (b, n), w (b,) -> (b, z, h, w):
    v or epsilon.

    `scale` is the standard deviation of the unscaled latents, `signal` abar at each timestep. Only
    a student takes w.
    """

    scale: Tensor
    signal: Tensor

    def __init__(self, config: LcdConfig, student: bool = False) -> None:
        super().__init__()
        widths, net = config.unet.widths, config.unet
        self.register_buffer("scale", torch.ones(()))
        levels = torch.from_numpy(alphas_bar(config.schedule, config.timesteps)[1:]).float()
        self.register_buffer("signal", levels, persistent=False)
        self.embed = Embed(net, W_NUMBERS if student else 0)
        self.forget_w()
        self.context = ContextEncoder(config.classes, config.vector, config.tokens, config.context)
        self.trunk = Trunk(config)
        self.act = ACTIVATIONS[net.activation]()
        down = list(reversed(range(len(widths))))
        self.up = nn.ModuleList(
            Stage(config, k, [2 * widths[k], *[widths[k]] * (net.blocks - 1)]) for k in down
        )
        self.grow = nn.ModuleList(ConvNorm(widths[k], widths[k - 1], net.norm) for k in down[:-1])
        self.head = nn.Conv2d(widths[0], config.z * net.patch**2, 3, padding=1)
        for tensor in self.head.parameters():
            nn.init.zeros_(tensor)

    def forget_w(self) -> None:
        """Zero the weights of w, so that it has no effect until they are trained again."""
        if self.embed.label is not None:
            nn.init.zeros_(self.embed.label.weight)

    def condition(
        self,
        t: Tensor,
        label: Tensor | None,
        vector: Tensor | None,
        w: Tensor | None,
        told: Tensor | None = None,
    ) -> BlockCondition:
        e = self.embed(t, None if w is None else sinusoid(w), told)
        return BlockCondition(e, self.context(t.shape[0], label, vector))

    def decode(self, features: list[Tensor], condition: BlockCondition) -> Tensor:
        """Run the way up from the trunk's features, and return v or epsilon (b, z, h, w)."""
        *skips, h = features
        for k, stage in enumerate(self.up):
            if k:
                h = self.act(self.grow[k - 1](F.interpolate(h, scale_factor=2.0, mode="nearest")))
            h = stage(torch.cat([h, skips.pop()], dim=1), condition)
        return F.pixel_shuffle(self.head(h), self.trunk.patch)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        vector: Tensor | None = None,
        w: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Tensor:
        condition = self.condition(t, label, vector, w, told)
        return self.decode(self.trunk(x, condition), condition)


class Like(nn.Module):
    """A denoiser that takes its embedding vector before its optional label."""

    def __init__(self, net: LatentUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, vector: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net(x, t, label, vector)


def bake(student: LatentUNet, w: float) -> None:
    """Fix w in place: its part of the time embedding becomes bias, and w is no longer an input."""
    last = student.embed.time[-1]
    assert student.embed.label is not None and isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias.add_(student.embed.label(sinusoid(torch.tensor([w], device=last.bias.device)))[0])
    student.embed.label = None
