"""A small conditional U-Net whose default blocks suit INT8 kernels; the usual blocks of diffusion
papers can be selected.

Every batch norm follows a convolution, so that it can be folded into it, and every residual sum is
followed by its activation. With ReLU all activations are then unsigned, and no other layer stands
between two convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import STRICT

Norm = Literal["batch", "group", "none"]
Activation = Literal["relu", "leaky_relu", "hardswish", "silu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class UNetConfig:
    """The shape of one network; each level halves height and width."""

    __pydantic_config__: ClassVar = STRICT

    widths: tuple[int, ...] = (64, 128)  # channels of each level, finest first
    blocks: int = 1  # residual blocks per level, as many on the way up as on the way down
    patch: int = 2  # pixels a side that the stem folds into channels
    norm: Norm = "batch"
    activation: Activation = "relu"
    attention: bool = False  # self-attention at the coarsest level
    embedding: int = 64  # width of the timestep and label embedding
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.widths or any(w < 16 or w % 16 for w in self.widths):
            raise ValueError(
                "widths must be multiples of 16 (INT8 kernels work on 16 channels), got "
                f"{self.widths}"
            )
        if self.blocks < 1 or self.patch < 1 or self.embedding < 2 or self.embedding % 2:
            raise ValueError(f"blocks and patch must be at least 1 and embedding even, got {self}")
        if self.norm not in ("batch", "group", "none") or self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown norm {self.norm!r} or activation {self.activation!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(16, channels) if kind == "group" else nn.Identity()


def silence(layer: nn.Module) -> None:
    """Set the layer's weights and biases to zero, so that its output is 0 until it is trained."""
    for tensor in layer.parameters():
        nn.init.zeros_(tensor)


class ConvNorm(nn.Module):
    """A convolution followed by its norm: x (b, c, h, w) -> (b, out, h / stride, w / stride)."""

    def __init__(self, cin: int, out: int, norm: Norm, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, out, kernel, stride, kernel // 2, bias=norm != "batch")
        self.norm = _norm(norm, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Block(nn.Module):
    """Residual block: x (b, cin, h, w), e (b, embedding) -> (b, out, h, w)."""

    def __init__(self, cin: int, out: int, config: UNetConfig) -> None:
        super().__init__()
        self.first = ConvNorm(cin, out, config.norm)
        self.second = ConvNorm(out, out, config.norm)
        self.embed = nn.Linear(config.embedding, out)
        self.short = nn.Identity() if cin == out else ConvNorm(cin, out, config.norm, kernel=1)
        self.drop = nn.Dropout(config.dropout)
        self.act = ACTIVATIONS[config.activation]()
        has_norm = isinstance(self.second.norm, nn.BatchNorm2d | nn.GroupNorm)
        # the block starts as its shortcut
        silence(self.second.norm if has_norm else self.second.conv)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.act(self.first(x) + self.embed(e)[:, :, None, None])
        return self.act(self.short(x) + self.second(self.drop(h)))


class Attention(nn.Module):
    """Single-head self-attention over positions: x (b, c, h, w) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        silence(self.out)

    def forward(self, x: Tensor) -> Tensor:
        # each (b, h w, c)
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.out(y.reshape(x.shape))


class Embed(nn.Module):
    """t (b,) in [1, T] and label (b, classes), one-hot or zero -> (b, embedding).

    told (b, embedding): in training, the embedding of a photo's augmentations (transforms.py).
    """

    frequencies: Tensor

    def __init__(self, config: UNetConfig, classes: int) -> None:
        super().__init__()
        half = config.embedding // 2
        self.register_buffer(
            "frequencies",
            torch.exp(-math.log(10_000) * torch.arange(half) / half),
            persistent=False,
        )
        self.time = nn.Sequential(
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
        )
        self.label = nn.Linear(classes, config.embedding, bias=False) if classes else None

    def forward(self, t: Tensor, label: Tensor | None, told: Tensor | None = None) -> Tensor:
        angle = t[:, None] * self.frequencies[None]
        e = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        if self.label is not None and label is not None:
            e = e + self.label(label)
        if told is not None:
            e = e + told
        return F.silu(e)


def entrance(config: UNetConfig, cin: int, classes: int) -> tuple[Embed, ConvNorm, nn.Module]:
    """Return a backbone's embedding, its stem (for patches folded into channels) and its
    activation.
    """
    embed = Embed(config, classes)
    return (
        embed,
        ConvNorm(cin * config.patch**2, config.widths[0], config.norm),
        ACTIVATIONS[config.activation](),
    )


class UNet(nn.Module):
    """x (b, cin, h, w), t (b,), label (b, classes) -> (b, out, h, w); h and w divide by patch *
    2**(levels - 1).
    """

    def __init__(self, config: UNetConfig, cin: int, out: int, classes: int) -> None:
        super().__init__()
        widths, self.patch = config.widths, config.patch
        self.embed, self.stem, self.act = entrance(config, cin, classes)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.shrink.append(ConvNorm(widths[level - 1], width, config.norm, stride=2))
            self.down.append(
                nn.ModuleList(Block(width, width, config) for _ in range(config.blocks))
            )
        self.middle = Block(widths[-1], widths[-1], config)
        self.attention = Attention(widths[-1]) if config.attention else nn.Identity()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            sizes = [2 * width] + [width] * (config.blocks - 1)
            self.up.append(nn.ModuleList(Block(size, width, config) for size in sizes))
            if level:
                self.grow.append(ConvNorm(width, widths[level - 1], config.norm))
        self.head = nn.Conv2d(widths[0], out * self.patch**2, 3, padding=1)
        silence(self.head)

    def features(
        self, x: Tensor, t: Tensor, label: Tensor | None, told: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return all intermediate tensors by name; the last, "output", is what forward returns."""
        out: dict[str, Tensor] = {}
        e = out["embed"] = self.embed(t, label, told)
        h = out["stem"] = self.act(self.stem(F.pixel_unshuffle(x, self.patch)))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level:
                h = out[f"shrink{level}"] = self.act(self.shrink[level - 1](h))
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, e)
            out[f"down{level}"] = h
            skips.append(h)
        h = out["middle"] = self.attention(self.middle(h, e))
        for i, blocks in enumerate(self.up):
            if i:
                h = self.act(self.grow[i - 1](F.interpolate(h, scale_factor=2.0, mode="nearest")))
            h = torch.cat([h, skips.pop()], dim=1)
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, e)
            out[f"up{len(self.down) - 1 - i}"] = h
        out["output"] = F.pixel_shuffle(self.head(h), self.patch)
        return out

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None, told: Tensor | None = None
    ) -> Tensor:
        return self.features(x, t, label, told)["output"]


def factor_of(size: int, larger: int) -> int:
    """Return larger / size. ValueError unless it is a whole number."""
    if larger % size:
        raise ValueError(f"it can draw {size} times a whole number")
    return larger // size


def stretched(
    tensors: Mapping[str, Tensor], enter: str, leave: str, patch: int, factor: int
) -> dict[str, Tensor]:
    """Return the tensors of a network with patches `factor` times as large.

    The new network takes means over `factor` x `factor` pixels, applies the old network, and copies
    each result to `factor` x `factor` pixels. enter: its first convolution, which reads patches
    folded into channels; leave: its last, whose channels unfold to patches. A layer that is not
    among the tensors is left out.
    """

    def folded(weight: Tensor, axis: int) -> Tensor:
        parts = weight.reshape(*weight.shape[:axis], -1, patch, patch, *weight.shape[axis + 1 :])
        parts = parts.repeat_interleave(factor, axis + 1).repeat_interleave(factor, axis + 2)
        return parts.flatten(axis, axis + 2).contiguous()

    out = dict(tensors)
    for name, axis, share in (
        (f"{enter}.weight", 1, factor**2),
        (f"{leave}.weight", 0, 1),
        (f"{leave}.bias", 0, 1),
    ):
        if name in out:
            out[name] = folded(out[name], axis) / share
    return out


# assumed standard deviation of the finest detail of images in [-1, 1], for stretched networks,
# which have not learned it
GRAIN = 0.05


def detail(x: Tensor, factor: int) -> Tensor:
    """Return x (b, c, h, w) minus its `factor` x `factor` means, which are all that a stretched
    network sees.
    """
    return x - F.interpolate(F.avg_pool2d(x, factor), scale_factor=float(factor), mode="nearest")


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every ConvNorm's batch norm into its convolution, in place, without changing the output.

    ValueError unless the network is in eval mode.
    """
    for module in net.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            if module.training:
                raise ValueError(
                    "batch norms fold in eval mode only: in training they depend on the batch"
                )
            module.conv = nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
