"""Random augmentations of training photos: affine maps of the image plane and rotations of hue.

A diffusion network receives their parameters as an input, so that its samples do not show them
(Karras et al. 2022, F.2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUMBERS = 6  # parameters of an augmentation: flip, log2 of the scale, two shifts, hue twice
SCALE, SHIFT = 0.2, 0.125  # deviations of log2 of the scale, and of a shift in photo widths


def changed(images: Tensor, p: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment images (b, c, h, w) in [-1, 1], and return them with the parameters (b, NUMBERS).

    Each image is mirrored, scaled, shifted and, if it is RGB, rotated in hue, with probability p
    each; the outside becomes white. The parameters of an unchanged image are zeros.
    """
    colour = images.shape[1] == 3

    def uniform() -> Tensor:
        return torch.rand(len(images), generator=rng, device=rng.device)

    def normal() -> Tensor:
        return torch.randn(len(images), generator=rng, device=rng.device)

    def sometimes(value: Tensor) -> Tensor:
        return value * (uniform() < p)

    flip, size = sometimes((uniform() < 0.5).float()), sometimes(normal())
    x, y = sometimes(normal()), sometimes(normal())
    angle = sometimes(math.pi * (2 * uniform() - 1)) * colour
    scale = torch.exp2(SCALE * size)
    m = scaling(1 - 2 * flip, torch.ones_like(flip)) @ scaling(scale, scale)
    m = m @ shift(2 * SHIFT * x, 2 * SHIFT * y)  # a width is 2 in the plane of affine_grid
    told = torch.stack([flip, size, x, y, angle.cos() - 1, angle.sin()], dim=1)
    grid = F.affine_grid(m[:, :2], list(images.shape), align_corners=False)
    # grid_sample fills the outside with 0, which is white after the subtraction
    moved = F.grid_sample(images.float() - 1, grid, align_corners=False) + 1
    if colour:
        moved = (hue(angle) @ moved.flatten(2)).reshape(images.shape).clamp(-1, 1)
    still = (told == 0).all(1)[:, None, None, None]
    return torch.where(still, images, moved), told


def beside(name: str) -> str:
    """Return the name of the `Told` module of a network, which trains beside it and never ships."""
    return f"{name}_told"


def hint(networks: nn.ModuleDict, name: str, told: Tensor | None) -> Tensor | None:
    """Return the embedding (b, embedding) of the parameters `told` (b, NUMBERS) for a network."""
    return None if told is None else networks[beside(name)](told)


class Told(nn.Module):
    """Embeds augmentation parameters (b, NUMBERS) -> (b, embedding), which is added to the
    timestep's embedding.

    It is linear without a bias, so an unchanged photo gives 0. Therefore it need not ship, and
    weights that were trained without it can continue with it.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.embed = nn.Linear(NUMBERS, embedding, bias=False)
        nn.init.zeros_(self.embed.weight)

    def forward(self, told: Tensor) -> Tensor:
        return self.embed(told)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    # maps the result's places to the source's
    return _matrix([[1 / x, zero, zero], [zero, 1 / y, zero], [zero, zero, one]])


def shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, zero, -x], [zero, one, -y], [zero, zero, one]])


def rotation(angle: Tensor) -> Tensor:
    zero, one, cos, sin = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    return _matrix([[cos, sin, zero], [-sin, cos, zero], [zero, zero, one]])


def hue(angle: Tensor) -> Tensor:
    """Return rotations (b, 3, 3) of the colour space by angle (b,), in radians, around the grey
    axis (1, 1, 1) / sqrt(3) (Rodrigues' formula).
    """
    unit = torch.eye(3, device=angle.device)
    turn = unit.roll(1, 0)  # red to green to blue
    cross = (turn - turn.T) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * unit + sin * cross + (1 - cos) / 3
