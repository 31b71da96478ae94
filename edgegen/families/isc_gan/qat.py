"""Training that sees INT8: activations are rounded to 8 bits on the way, and the step they are
rounded with is part of the loss.

What rounding costs an isc-gan comes from its activations alone (decision 13): styles multiply
features by another factor in each image, so one range for all images is wide, and its step coarse.
Gradients that pass straight through the rounding (Jacob et al. 2018, arXiv 1712.05877) cannot see
that; here the step follows the range of what is rounded, and so ranges shrink.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEVELS = 255
# of a channel's magnitude and of a weight's: what is silent or unread takes part, and nothing
# divides by 0
SMALLEST = 1e-6


class Rounder(nn.Module):
    """Rounds the input (b, cin, h, w) of a convolution while it is on; the weight says how much of
    each channel is read.

    One asymmetric 8-bit code for all images and channels, whose channels were made even as export
    makes them (calibrate/equalize.py); ends: the mean over images of their smallest and largest
    values, what is outside is cut.
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
    """Every Rounder in `net` rounds while the block runs."""
    rounders = [m for m in net.modules() if isinstance(m, Rounder)]
    for rounder in rounders:
        rounder.on = True
    try:
        yield
    finally:
        for rounder in rounders:
            rounder.on = False


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of images (b, c, h, w) and of their steps from pixel to pixel: grain
    on flat grounds counts.
    """
    d = a - b
    return d.square().mean() + d.diff(dim=2).square().mean() + d.diff(dim=3).square().mean()
