"""Adaptive discriminator augmentation (Karras et al. 2020; spec A4): what the discriminator sees,
and how often it is changed.

Geometry (flip, quarter turns, shifts, scales, rotations) is one affine map of the image plane an
image, colours (brightness, contrast, luma flip, hue, saturation) one of the colour space. Both are
differentiable, so that gradients reach the generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EVERY = 4  # batches between two adjustments


class Ada(nn.Module):
    """The probability p of each augmentation, led by how sure the discriminator is of real images;
    state is in buffers.

    Nothing here asks for the value of a tensor, so that a GPU never waits: at p = 0 the
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
        """images (b, c, h, w) in [-1, 1] -> the same, each changed at random with probability p; as
        they are without a target.
        """
        if not self.target:
            return images
        with torch.autocast(images.device.type, enabled=False):
            return recoloured(moved(images.float(), self.p, rng), self.p, rng)

    @torch.no_grad()
    def follow(self, real_scores: Tensor) -> None:
        """Count one batch of the discriminator's scores (b,) of real images; every EVERY batches p
        moves by one notch.
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
    """Random numbers (b,) that are neutral with probability 1 - p."""

    def __init__(self, count: int, p: Tensor, rng: torch.Generator) -> None:
        self.count, self.p, self.rng = count, p, rng

    def uniform(self) -> Tensor:
        return torch.rand(self.count, generator=self.rng, device=self.rng.device)

    def normal(self) -> Tensor:
        return torch.randn(self.count, generator=self.rng, device=self.rng.device)

    def pick(self, value: Tensor, neutral: float) -> Tensor:
        return torch.where(self.uniform() < self.p, value, torch.full_like(value, neutral))


def moved(images: Tensor, p: Tensor, rng: torch.Generator) -> Tensor:
    """Geometric augmentations of images (b, c, h, w) with probability p () each, bilinear, the
    outside reflected.
    """
    b, (h, w) = len(images), images.shape[2:]
    d = _Draws(b, p, rng)
    flip = d.pick(1 - 2 * (d.uniform() < 0.5).float(), 1)
    # x-flip
    m = _scaling(flip, torch.ones_like(flip))
    # quarter turns
    m = m @ _rotation(d.pick(torch.floor(d.uniform() * 4) * (math.pi / 2), 0))
    # whole pixels
    m = m @ _shift(
        *(d.pick(torch.round((d.uniform() * 2 - 1) * 0.125 * n) * 2 / n, 0) for n in (w, h))
    )
    scale = d.pick(torch.exp2(d.normal() * 0.2), 1)
    m = m @ _scaling(scale, scale)
    # rotated before or after the stretch: either with probability p
    half = _Draws(b, 1 - (1 - p).sqrt(), rng)
    m = m @ _rotation(half.pick((half.uniform() * 2 - 1) * math.pi, 0))
    stretch = d.pick(torch.exp2(d.normal() * 0.2), 1)
    m = m @ _scaling(stretch, 1 / stretch)
    m = m @ _rotation(half.pick((half.uniform() * 2 - 1) * math.pi, 0))
    # 0.125 of the width
    m = m @ _shift(d.pick(d.normal() * 0.25, 0), d.pick(d.normal() * 0.25, 0))
    grid = F.affine_grid(m[:, :2], [b, images.shape[1], h, w], align_corners=False)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def recoloured(images: Tensor, p: Tensor, rng: torch.Generator) -> Tensor:
    """Colour augmentations of images (b, c, h, w) with probability p () each; of grey ones:
    brightness, contrast, luma flip.
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
    colours = _hue(d.pick((d.uniform() * 2 - 1) * math.pi, 0)) @ colours
    saturation = d.pick(torch.exp2(d.normal()), 1)[:, None, None]
    colours = (luma + (unit - luma) * saturation) @ colours
    offset = colours.sum(2, keepdim=True) * bright[:, None, None]
    return (colours @ images.flatten(2) + offset).reshape(images.shape)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    # maps the result's places to the source's
    return _matrix([[1 / x, zero, zero], [zero, 1 / y, zero], [zero, zero, one]])


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, zero, -x], [zero, one, -y], [zero, zero, one]])


def _rotation(angle: Tensor) -> Tensor:
    zero, one, cos, sin = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    return _matrix([[cos, sin, zero], [-sin, cos, zero], [zero, zero, one]])


def _hue(angle: Tensor) -> Tensor:
    """Rotations (b, 3, 3) of the colour space around grey, (1, 1, 1) / sqrt(3) (Rodrigues)."""
    unit = torch.eye(3, device=angle.device)
    turn = unit.roll(1, 0)  # red to green to blue
    cross = (turn - turn.T) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * unit + sin * cross + (1 - cos) / 3
