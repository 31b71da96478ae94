"""The regularisation terms R1 and path length, which bound a GAN's gradients
(docs/methods/isc-gan.md, A.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PATH_DECAY = 0.01  # rate at which the running mean follows the path lengths


def r1(critic: Callable[[Tensor], Tensor], images: Tensor, gamma: float) -> Tensor:
    """Return gamma / 2 * E ||grad_x D(x)||^2 at real images (Mescheder et al. 2018).

    It is computed in FP32 and can be differentiated again.
    """
    x = images.detach().float().requires_grad_(True)
    with torch.autocast(x.device.type, enabled=False):
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gamma / 2 * slope.square().flatten(1).sum(1).mean()


def path_lengths(ws: Tensor, images: Tensor, rng: torch.Generator) -> Tensor:
    """Return how far images (b, c, h, w) move for a step of their styles ws (b, styles, w_dim), as
    (b,).

    With y ~ N(0, 1) / sqrt(h w) and J = grad_ws <image, y>, it is the root of the mean over styles
    of |J|^2 (Karras et al. 2020, eq. 4).
    """
    y = torch.randn(images.shape, generator=rng, device=rng.device) / math.sqrt(
        images.shape[2] * images.shape[3]
    )
    (slope,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    return slope.square().sum(2).mean(1).sqrt()


def path_penalty(lengths: Tensor, mean: Tensor) -> Tensor:
    """Update the running mean () in place with the lengths, and return E (length - mean)^2."""
    mean.lerp_(lengths.detach().float().mean(), PATH_DECAY)
    return (lengths - mean.clone()).square().mean()
