"""ControlNet on a frozen base: a trained copy of the base's way down, which also takes a hint
(docs/methods/latent-consistency.md, E.2.6; Zhang et al. 2023).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..unet import ACTIVATIONS
from .config import LcdConfig
from .unet import BlockCondition, LatentUNet, Trunk


def _zero(channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution whose output is 0 until it is trained."""
    layer = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class HintEncoder(nn.Module):
    """hint (b, channels, size, size) in [0, 1] -> features (b, width, side, side) for the trunk's
    finest level, which are 0 until trained.
    """

    def __init__(self, config: LcdConfig) -> None:
        super().__init__()
        patch, width = config.coder.patch, 16
        self.mean = nn.AvgPool2d(patch) if patch > 1 else nn.Identity()
        factor = config.coder.factor // patch * config.unet.patch
        layers: list[nn.Module] = [
            nn.Conv2d(config.hint_channels, width, 3, padding=1),
            ACTIVATIONS[config.unet.activation](),
        ]
        while factor > 1:
            layers += [
                nn.Conv2d(width, min(2 * width, 96), 3, 2, 1),
                ACTIVATIONS[config.unet.activation](),
            ]
            factor, width = factor // 2, min(2 * width, 96)
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(width, config.unet.widths[0], 3, padding=1)
        for tensor in self.out.parameters():
            nn.init.zeros_(tensor)

    def forward(self, hint: Tensor) -> Tensor:
        return self.out(self.layers(self.mean(hint)))


class ControlNet(nn.Module):
    """x (b, z, h, w), its condition and a hint -> one tensor per feature of the base's trunk, to be
    added to it.
    """

    def __init__(self, config: LcdConfig) -> None:
        super().__init__()
        self.hint = HintEncoder(config)
        self.trunk = Trunk(config)
        self.zeros = nn.ModuleList(_zero(w) for w in (*config.unet.widths, config.unet.widths[-1]))

    def forward(self, x: Tensor, condition: BlockCondition, hint: Tensor) -> list[Tensor]:
        features = self.trunk(x, condition, self.hint(hint))
        return [zero(h) for zero, h in zip(self.zeros, features, strict=True)]


class Controlled(nn.Module):
    """Base and control as one denoiser, which also takes a hint (b, channels, size, size)."""

    def __init__(self, base: LatentUNet, control: ControlNet) -> None:
        super().__init__()
        self.base, self.control = base, control

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        hint: Tensor,
        label: Tensor | None = None,
        w: Tensor | None = None,
    ) -> Tensor:
        condition = self.base.condition(t, label, None, w)
        extra = self.control(x, condition, hint)
        features = [h + more for h, more in zip(self.base.trunk(x, condition), extra, strict=True)]
        return self.base.decode(features, condition)
