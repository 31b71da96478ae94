"""The generator of isc-gan: a mapping from latents to styles, and a synthesis from styles to an
image, with either connection between features and colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .config import IscGanConfig
from .layers import EqualConv, EqualLinear, ModConv, ModConvOptions, activate, up2

RATE = 0.01  # factor on the mapping's learning rate
DECAY = 0.995  # decay of the mean style per batch


class Mapping(nn.Module):
    """x (b, z_dim) standard normal, label (b, classes) -> w (b, w_dim)."""

    mean: Tensor

    def __init__(self, config: IscGanConfig) -> None:
        super().__init__()
        self.label = EqualLinear(config.classes, config.w_dim) if config.classes else None
        cin = config.z_dim + (config.w_dim if config.classes else 0)
        sizes = [cin] + [config.w_dim] * config.mapping_layers
        self.layers = nn.ModuleList(EqualLinear(a, b, rate=RATE) for a, b in pairwise(sizes))
        self.truncation = config.truncation
        self.register_buffer("mean", torch.zeros(config.w_dim))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = _unit(x)
        if self.label is not None and label is not None:
            h = torch.cat([h, _unit(self.label(label))], dim=1)
        for layer in self.layers:
            h = activate(layer(h))
        if self.training or self.truncation == 1:
            return h
        return torch.lerp(self.mean, h, self.truncation)

    def follow(self, w: Tensor) -> None:
        """Update the mean style with a batch of styles (b, w_dim)."""
        self.mean.lerp_(w.detach().float().mean(0), 1 - DECAY)


def _unit(x: Tensor) -> Tensor:
    """Scale the rows of x (b, n) to unit root mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class SynthesisBlock(nn.Module):
    """x (b, cin, h, h), rgb (b, channels, h, h), three styles (b, w_dim) -> both at twice the size;
    the first block starts from a learned constant instead.

    skip: x = conv1(h), colours from x (docs/methods/isc-gan.md, A.2.1). squeeze: q = squeeze(h),
    colours from q, x = fuse(h, excite(q)) (A.2.3). Nothing reads the x of the last block, so that
    block has neither excite nor fuse.
    """

    def __init__(self, config: IscGanConfig, level: int, last: bool) -> None:
        super().__init__()
        c, w, size = config.widths[level], config.w_dim, 4 << level
        noise = size if config.noise else None
        self.size = size
        self.start = None if level else nn.Parameter(torch.randn(c, 4, 4))
        self.conv0 = (
            ModConv(config.widths[level - 1], c, w, noise, ModConvOptions(up=config.up))
            if level
            else None
        )
        self.squeezes = config.connection == "squeeze" and size >= config.isc_min_res
        self.modulated_fuse = config.fuse == "modulated"
        narrow = config.squeezed(c) if self.squeezes else c
        if self.squeezes:
            self.squeeze = ModConv(c, narrow, w, noise)
        else:
            self.conv1 = ModConv(c, c, w, noise)
        colours = ModConvOptions(kernel=1, demodulate=False, activated=False)
        self.colours = ModConv(narrow, config.channels, w, options=colours)
        self.last = last
        if self.squeezes and not last:
            self.excite = ModConv(narrow, c, w, noise)
            self.fuse = (
                ModConv(2 * c, c, w, options=ModConvOptions(kernel=1, activated=False))
                if self.modulated_fuse
                else EqualConv(2 * c, c, 1)
            )

    def features(
        self,
        x: Tensor | None,
        rgb: Tensor | None,
        ws: Sequence[Tensor],
        rng: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Return all intermediate tensors by name; the next block reads `x` and `rgb`.

        rng: draws the noise, none if None.
        """
        out: dict[str, Tensor] = {}
        if self.start is not None:
            # len() would fix the batch of an exported graph
            h = self.start.expand(ws[0].shape[0], -1, -1, -1)
        else:
            assert self.conv0 is not None and x is not None
            h = self.conv0(x, ws[0], rng)
        out["h"] = h
        if self.squeezes:
            q = out["q"] = self.squeeze(h, ws[1], rng)
            if not self.last:
                e = out["e"] = self.excite(q, ws[2], rng)
                out["x"] = self.fused(torch.cat([h, e], dim=1), ws[2])
            y = self.colours(q, ws[2])
        else:
            out["x"] = self.conv1(h, ws[1], rng)
            y = self.colours(out["x"], ws[2])
        out["y"] = y
        # Colours are summed in FP32, whatever type the rest computes in.
        out["rgb"] = y.float() if rgb is None else up2(rgb) + y
        return out

    def fused(self, joined: Tensor, w: Tensor) -> Tensor:
        """Reduce the joined features (b, 2c, h, h) to (b, c, h, h), without activation."""
        out: Tensor = self.fuse(joined, w) if self.modulated_fuse else self.fuse(joined)
        return out


class Synthesis(nn.Module):
    """x (b, w_dim), the style of all layers -> image (b, channels, size, size), not clipped."""

    def __init__(self, config: IscGanConfig) -> None:
        super().__init__()
        levels = len(config.widths)
        self.blocks = nn.ModuleList(
            SynthesisBlock(config, level, level == levels - 1) for level in range(levels)
        )
        self.count = config.styles

    def features(
        self, ws: Sequence[Tensor], rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return all intermediate tensors as "8.h", "8.q", ... and "image".

        ws: `count` styles (b, w_dim); rng: draws the noise, none if None.
        """
        out: dict[str, Tensor] = {}
        x = rgb = None
        for level, block in enumerate(self.blocks):
            first = 2 * level - 1  # colours share the style of the next block's first convolution
            taken = (ws[0], ws[0], ws[1]) if level == 0 else ws[first : first + 3]
            outputs = block.features(x, rgb, taken, rng)  # type: ignore[operator]
            x, rgb = outputs.get("x"), outputs["rgb"]
            out |= {f"{block.size}.{name}": value for name, value in outputs.items()}
        assert rgb is not None
        out["image"] = rgb
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.features([x] * self.count)["image"]


class StyleGan(nn.Module):
    """Mapping and synthesis, the part that ships: x (b, z_dim), label (b, classes) -> image
    (b, channels, size, size).
    """

    def __init__(self, config: IscGanConfig) -> None:
        super().__init__()
        self.mapping, self.synthesis = Mapping(config), Synthesis(config)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        image: Tensor = self.synthesis(self.mapping(x, label))
        return image
