"""Adaptive discriminator augmentation (Karras et al. 2020; docs/methods/isc-gan.md, A.4): random
changes of the images that the discriminator sees, with an adaptive probability.

For each image, geometry (flip, quarter turns, shifts, scales, rotations) is one affine map of the
image plane, and colours (brightness, contrast, luma flip, hue, saturation) are one affine map of
the colour space. Both are differentiable, so that gradients reach the generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..transforms import hue, rotation, scaling, shift

EVERY = 4  # batches between two adjustments


class Ada(nn.Module):
    """Augmentations with a probability p that follows how sure the discriminator is of real images.

    All state is in buffers, and no tensor's value is read, so that a GPU never waits; at p = 0 the
    augmentations run and change nothing.
    """

    p: Tensor
    signs: Tensor
    batches: Tensor

    def __init__(self, target: float, kimg: float) -> None:
        super().__init__()
        self.target, self.kimg = target, kimg
        self.register_buffer("p", torch.zeros((), dtype=torch.float64))
        # sum of mean signs since the last adjustment
        self.register_buffer("signs", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Augment images (b, c, h, w) in [-1, 1], each change with probability p.

        Without a target they are returned unchanged.
        """
        if not self.target:
            return images
        with torch.autocast(images.device.type, enabled=False):
            return recoloured(moved(images.float(), self.p, rng), self.p, rng)

    @torch.no_grad()
    def follow(self, real_scores: Tensor) -> None:
        """Record the discriminator's scores (b,) of one batch of real images, and every EVERY
        batches move p by one notch.
        """
        if not self.target:
            return
        self.signs += real_scores.sign().double().mean()
        self.batches += 1
        due = self.batches % EVERY == 0
        notch = len(real_scores) * EVERY / (self.kimg * 1000)
        self.p += notch * torch.sign(self.signs / EVERY - self.target) * due
        self.p.clamp_(0, 1)
        self.signs *= ~due


class _Draws:
    """Draws random numbers (b,); `pick` makes them neutral with probability 1 - p."""

    def __init__(self, count: int, p: Tensor, rng: torch.Generator) -> None:
        self.count, self.p, self.rng = count, p, rng

    def uniform(self) -> Tensor:
        return torch.rand(self.count, generator=self.rng, device=self.rng.device)

    def normal(self) -> Tensor:
        return torch.randn(self.count, generator=self.rng, device=self.rng.device)

    def pick(self, value: Tensor, neutral: float) -> Tensor:
        return torch.where(self.uniform() < self.p, value, torch.full_like(value, neutral))


def moved(images: Tensor, p: Tensor, rng: torch.Generator) -> Tensor:
    """Apply geometric augmentations to images (b, c, h, w), each with probability p ().

    Sampling is bilinear, and the outside is a reflection.
    """
    b, (h, w) = len(images), images.shape[2:]
    d = _Draws(b, p, rng)
    flip = d.pick(1 - 2 * (d.uniform() < 0.5).float(), 1)
    # x-flip
    m = scaling(flip, torch.ones_like(flip))
    # quarter turns
    m = m @ rotation(d.pick(torch.floor(d.uniform() * 4) * (math.pi / 2), 0))
    # whole pixels
    m = m @ shift(
        *(d.pick(torch.round((d.uniform() * 2 - 1) * 0.125 * n) * 2 / n, 0) for n in (w, h))
    )
    scale = d.pick(torch.exp2(d.normal() * 0.2), 1)
    m = m @ scaling(scale, scale)
    # Rotations before and after the stretch; at least one of them happens with probability p.
    half = _Draws(b, 1 - (1 - p).sqrt(), rng)
    m = m @ rotation(half.pick((half.uniform() * 2 - 1) * math.pi, 0))
    stretch = d.pick(torch.exp2(d.normal() * 0.2), 1)
    m = m @ scaling(stretch, 1 / stretch)
    m = m @ rotation(half.pick((half.uniform() * 2 - 1) * math.pi, 0))
    # 0.125 of the width
    m = m @ shift(d.pick(d.normal() * 0.25, 0), d.pick(d.normal() * 0.25, 0))
    grid = F.affine_grid(m[:, :2], [b, images.shape[1], h, w], align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def recoloured(images: Tensor, p: Tensor, rng: torch.Generator) -> Tensor:
    """Apply colour augmentations to images (b, c, h, w), each with probability p ().

    Images without three channels only get brightness, contrast and luma flip.
    """
    b, channels = len(images), images.shape[1]
    d = _Draws(b, p, rng)
    bright, contrast = d.pick(d.normal() * 0.2, 0), d.pick(torch.exp2(d.normal() * 0.5), 1)
    flip = d.pick((d.uniform() < 0.5).float(), 0)
    if channels != 3:
        return (
            images * (contrast * (1 - 2 * flip))[:, None, None, None]
            + (bright * contrast)[:, None, None, None]
        )
    unit = torch.eye(3, device=images.device)
    luma = torch.full_like(unit, 1 / 3)  # projects on grey
    colours = contrast[:, None, None] * (unit - 2 * luma * flip[:, None, None])
    colours = hue(d.pick((d.uniform() * 2 - 1) * math.pi, 0)) @ colours
    saturation = d.pick(torch.exp2(d.normal()), 1)[:, None, None]
    colours = (luma + (unit - luma) * saturation) @ colours
    offset = colours.sum(2, keepdim=True) * bright[:, None, None]
    return (colours @ images.flatten(2) + offset).reshape(images.shape)
