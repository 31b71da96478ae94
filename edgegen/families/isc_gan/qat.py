"""Quantization-aware training: activations are rounded to 8 bits, and the step of the rounding is
part of the loss.

The cost of rounding in an isc-gan comes from its activations alone (decision 13): styles multiply
features by a different factor in each image, so one range for all images is wide and its step is
coarse. Straight-through gradients (Jacob et al. 2018, arXiv 1712.05877) do not see that. Here the
step depends on the range of the activations, so training shrinks the ranges.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEVELS = 255
# Smallest magnitude of a channel and of its weights, to avoid a division by 0 for silent or unread
# channels.
SMALLEST = 1e-6


class Rounder(nn.Module):
    """Rounds the input (b, cin, h, w) of a convolution while it is on.

    The code is asymmetric with 8 bits, the same for all images and channels, after channels are
    equalized with the convolution's weight as export does (calibrate/equalize.py). Its ends are
    the means over images of their smallest and largest values; values outside are clipped.
    """

    on = False

    def forward(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        if not self.on:
            return x
        with torch.no_grad():
            written, read = (t.abs().amax((0, 2, 3)).clamp(min=SMALLEST) for t in (x, conv.weight))
            even = (written / read).log().mul(0.5)
            even = (even - even.mean()).exp()[:, None, None]
        even_x = x / even
        low, high = (
            even_x.amin((1, 2, 3)).mean().clamp(max=0),
            even_x.amax((1, 2, 3)).mean().clamp(min=SMALLEST),
        )
        step = (high - low) / LEVELS
        with torch.no_grad():
            zero = (-low / step).round()
            error = (even_x / step).round().add(zero).clamp(0, LEVELS).sub(zero) - even_x / step
        inside = even_x + step * error
        return torch.where(even_x > high, high, torch.where(even_x < low, low, inside)) * even


@contextmanager
def rounding(net: nn.Module) -> Iterator[None]:
    """Turn on every Rounder in `net` while the block runs."""
    rounders = [m for m in net.modules() if isinstance(m, Rounder)]
    for rounder in rounders:
        rounder.on = True
    try:
        yield
    finally:
        for rounder in rounders:
            rounder.on = False


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference of images (b, c, h, w), plus that of their differences
    between neighbouring pixels, so that grain on flat areas counts.
    """
    d = a - b
    return d.square().mean() + d.diff(dim=2).square().mean() + d.diff(dim=3).square().mean()
