"""Context tokens, and the transformers in which positions attend to each other and to the tokens
(docs/methods/latent-consistency.md, E.2.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..unet import ConvNorm, Norm


class TokenSet(NamedTuple):
    """Context tokens (b, n, width).

    keep (b, n): False where a token is absent; None if all are present.
    """

    tokens: Tensor
    keep: Tensor | None = None


class ContextEncoder(nn.Module):
    """label (b, classes), one-hot or zero, and vector (b, numbers) -> TokenSet of `tokens` tokens
    each.

    A zero label gives the learned null tokens; a zero vector counts as absent, and its tokens are
    masked.
    """

    def __init__(self, classes: int, numbers: int, tokens: int, width: int) -> None:
        super().__init__()
        self.shape = tokens, width
        self.null = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.label = nn.Linear(classes, tokens * width, bias=False) if classes else None
        self.vector = nn.Linear(numbers, tokens * width) if numbers else None

    def forward(
        self, batch: int | torch.SymInt, label: Tensor | None, vector: Tensor | None
    ) -> TokenSet:
        tokens = self.null.expand(batch, -1, -1)
        if self.label is not None and label is not None:
            tokens = tokens + self.label(label).reshape(-1, *self.shape)
        if self.vector is None or vector is None:
            return TokenSet(tokens)
        present = (vector != 0).any(1, keepdim=True).expand(-1, self.shape[0])
        return TokenSet(
            torch.cat([tokens, self.vector(vector).reshape(-1, *self.shape)], dim=1),
            torch.cat([torch.ones_like(present), present], dim=1),
        )


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, keep: Tensor | None = None) -> Tensor:
    """Apply softmax attention with `heads` heads, scaled by 1 / sqrt(c / heads): q (b, n, c), k and
    v (b, m, c), keep (b, m) -> (b, n, c).
    """
    n, c = q.shape[1:]
    q, k, v = (x.reshape(-1, x.shape[1], heads, c // heads).transpose(1, 2) for x in (q, k, v))
    mask = None if keep is None else keep[:, None, None, :]
    return _attended(q, k, v, mask).transpose(1, 2).reshape(-1, n, c)


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Apply torch's attention, in FP32 on a CPU that trains in BF16, because there the backward
    pass in BF16 takes 3 to 5 times as long.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=mask
            ).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _rows(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h w, c)."""
    return x.reshape(-1, x.shape[1], x.shape[2] * x.shape[3]).transpose(1, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.transpose(1, 2).reshape(-1, *like.shape[1:])


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    for tensor in layer.parameters():
        nn.init.zeros_(tensor)
    return layer


class Folded(nn.Module):
    """Self-attention, cross-attention and a feed-forward pair, each as a residual, on x
    (b, c, h, w); it starts as the identity.

    It has 1x1 convolutions followed by a foldable norm instead of layer norms before them, so that
    all but the attention itself can run in INT8.
    """

    def __init__(self, channels: int, head: int, context: int, norm: Norm) -> None:
        super().__init__()
        self.heads = channels // head
        self.qkv = ConvNorm(channels, 3 * channels, norm, kernel=1)
        self.own = _silent(nn.Conv2d(channels, channels, 1))
        self.q = ConvNorm(channels, channels, norm, kernel=1)
        self.kv = nn.Linear(context, 2 * channels, bias=False)
        self.cross = _silent(nn.Conv2d(channels, channels, 1))
        self.wide = ConvNorm(channels, 2 * channels, norm, kernel=1)
        self.narrow = _silent(nn.Conv2d(2 * channels, channels, 1))

    def forward(self, x: Tensor, context: TokenSet) -> Tensor:
        q, k, v = _rows(self.qkv(x)).chunk(3, dim=-1)
        x = x + self.own(_image(attend(q, k, v, self.heads), x))
        k, v = self.kv(context.tokens).chunk(2, dim=-1)
        x = x + self.cross(_image(attend(_rows(self.q(x)), k, v, self.heads, context.keep), x))
        return x + self.narrow(F.relu(self.wide(x)))


class Spatial(nn.Module):
    """The transformer of latent diffusion models (LDM) on x (b, c, h, w): group norm, 1x1
    convolution, self-attention, cross-attention and GEGLU with layer norms, and a zero-initialised
    1x1 convolution.
    """

    def __init__(self, channels: int, head: int, context: int, norm: Norm) -> None:
        super().__init__()
        self.heads = channels // head
        self.norm = nn.GroupNorm(16, channels)
        self.enter = nn.Conv2d(channels, channels, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.own = nn.Linear(channels, channels)
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(context, 2 * channels, bias=False)
        self.cross = nn.Linear(channels, channels)
        self.wide = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.leave = _silent(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: TokenSet) -> Tensor:
        h = _rows(self.enter(self.norm(x)))
        q, k, v = self.qkv(self.norms[0](h)).chunk(3, dim=-1)
        h = h + self.own(attend(q, k, v, self.heads))
        k, v = self.kv(context.tokens).chunk(2, dim=-1)
        h = h + self.cross(attend(self.q(self.norms[1](h)), k, v, self.heads, context.keep))
        value, gate = self.wide(self.norms[2](h)).chunk(2, dim=-1)
        return x + self.leave(_image(h + self.narrow(value * F.gelu(gate)), x))


TRANSFORMERS: dict[str, type[Folded] | type[Spatial]] = {"folded": Folded, "spatial": Spatial}
