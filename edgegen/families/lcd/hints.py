"""Control hints in [0, 1], made from images (b, c, h, w) in [-1, 1] and of the same size
(docs/methods/latent-consistency.md, E.2.6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import Hint

BOXES = 2  # most boxes in one image
LARGEST = 0.6  # largest side of a box, as a share of the image's; the smallest is half of it
COARSE = 4  # side in pixels of the fields of mean luminance


def edges(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the Sobel gradient (b, 1, h, w) of the luminance, divided by 4, in [0, 1]."""
    kernel = images.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    grey = F.pad(_grey(images), (1, 1, 1, 1), mode="replicate")
    slopes = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
    return (slopes.square().sum(1, keepdim=True).sqrt() / 4).clamp(0, 1)


def luminance(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean luminance of fields of 4 x 4 pixels, as (b, 1, h, w)."""
    return F.interpolate(
        F.avg_pool2d(_grey(images), COARSE), scale_factor=float(COARSE), mode="nearest"
    )


def boxes(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the image with one or two random boxes set to 0, and a mask that is 1 outside them,
    as (b, c + 1, h, w).
    """
    b, _, height, width = images.shape
    u = torch.rand((b, 5, BOXES, 1, 1), generator=generator, device=generator.device).transpose(
        0, 1
    )
    tall, wide = (LARGEST * (0.5 + 0.5 * side) for side in u[:2])
    top, left = u[2] * (1 - tall), u[3] * (1 - wide)
    y = (torch.arange(height, device=u.device)[:, None] + 0.5) / height
    x = (torch.arange(width, device=u.device)[None] + 0.5) / width
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    # the first box is always there
    drawn = (u[4] < 0.5) | (torch.arange(BOXES, device=u.device)[:, None, None] == 0)
    seen = (~(inside & drawn).any(1, keepdim=True)).float()
    return torch.cat([(images / 2 + 0.5) * seen, seen], dim=1)


HINTS: dict[Hint, Callable[[Tensor, torch.Generator], Tensor]] = {
    "edges": edges,
    "luminance": luminance,
    "boxes": boxes,
}


def palette(images: Tensor, fields: int) -> Tensor:
    """Return the mean colours of fields x fields parts of the images, as (b, c * fields^2).

    A person can write such an embedding vector by hand.
    """
    return F.avg_pool2d(images, images.shape[2] // fields).flatten(1)


def _grey(images: Tensor) -> Tensor:
    """Return the luminance (b, 1, h, w) in [0, 1] by ITU-R BT.601, or the mean of the channels if
    there are not three.
    """
    weights = (
        (0.299, 0.587, 0.114) if images.shape[1] == 3 else (1 / images.shape[1],) * images.shape[1]
    )
    return (
        (images / 2 + 0.5).mul(images.new_tensor(weights)[None, :, None, None]).sum(1, keepdim=True)
    )
