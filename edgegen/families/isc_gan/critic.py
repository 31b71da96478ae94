"""The discriminator of StyleGAN2 (docs/methods/isc-gan.md, A.4), which is trained beside the
generator and never ships.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import IscGanConfig
from .layers import EqualConv, EqualLinear, activate


class Down(nn.Module):
    """x (b, cin, h, w) -> (b, out, h / 2, w / 2): two convolutions, the second after a 2x2 mean,
    and a shortcut.
    """

    def __init__(self, cin: int, out: int, residual: bool) -> None:
        super().__init__()
        share = math.sqrt(0.5) if residual else 1.0
        self.conv0, self.conv1 = (
            EqualConv(cin, cin, 3, activated=True),
            EqualConv(cin, out, 3, activated=True, share=share),
        )
        self.short = EqualConv(cin, out, 1, share=share) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(F.avg_pool2d(self.conv0(x), 2))
        return h if self.short is None else h + self.short(F.avg_pool2d(x, 2))


def spread(x: Tensor, group: int) -> Tensor:
    """Return the mean standard deviation over groups of images (minibatch standard deviation, one
    feature): x (b, c, h, w) -> (b, 1, h, w).

    The group size is the greatest common divisor of b and `group`.
    """
    b, c, h, w = x.shape
    size = math.gcd(b, group)
    y = x.reshape(size, b // size, c, h, w)
    y = (y - y.mean(0)).square().mean(0)
    y = (y + 1e-8).sqrt().mean((1, 2, 3))
    return y.repeat(size)[:, None, None, None].expand(b, 1, h, w)


class Critic(nn.Module):
    """images (b, channels, size, size) in [-1, 1], label (b, classes) -> scores (b,), high for
    images that look real.
    """

    def __init__(self, config: IscGanConfig) -> None:
        super().__init__()
        widths = config.critic_widths
        self.group = config.group
        self.enter = EqualConv(config.channels, widths[-1], 1, activated=True)
        residual = config.critic == "residual"
        self.blocks = nn.Sequential(
            *(Down(widths[k], widths[k - 1], residual) for k in range(len(widths) - 1, 0, -1))
        )
        self.conv = EqualConv(widths[0] + 1, widths[0], 3, activated=True)
        self.hidden = EqualLinear(widths[0] * 16, widths[0])
        self.out = EqualLinear(widths[0], config.w_dim if config.classes else 1)
        self.label = EqualLinear(config.classes, config.w_dim) if config.classes else None

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.blocks(self.enter(images))
        # BF16, with its 8-bit mantissas, would lose the small differences between images.
        with torch.autocast(images.device.type, enabled=False):
            h = h.float()
            h = self.conv(torch.cat([h, spread(h, self.group)], dim=1))
            scores: Tensor = self.out(activate(self.hidden(h.flatten(1))))
            if self.label is None or label is None:
                return scores[:, 0]
            e = self.label(label)  # projection: the score of an image for its own class
            e = e * torch.rsqrt(e.square().mean(1, keepdim=True) + 1e-8)
            return (scores * e).sum(1) / math.sqrt(scores.shape[1])
