"""Stage 2 (docs/methods/dkgm.md, D.2.3): the bridge from coarse images to clean ones, and the
network that estimates the remaining error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.samplers.bridge import TIMES
from ..unet import GRAIN, detail
from .config import DkgmConfig
from .nets import BACKBONES


def deviation(t: Tensor, spread: Tensor | float, noise: float) -> Tensor:
    """Return c_out(t), the standard deviation of X_t - x if that of coarse - x is `spread`."""
    return (t.square() * spread**2 + noise**2 * t * (1 - t)).sqrt()


class Bridge(NamedTuple):
    """The constants of the bridge: its noise k, and spread, the standard deviation of coarse - x,
    from which c_out follows.
    """

    noise: float
    spread: Tensor | float


def bridge_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    coarse: Tensor,
    t: Tensor,
    xi: Tensor,
    bridge: Bridge,
    weighting: str,
) -> Tensor:
    """Return the mean squared error of F = predict(X_t, t) at X_t = (1 - t) x + t coarse + k
    sqrt(t (1 - t)) xi; t (b,) in (0, 1].

    weighting: "scaled" for the error of F, whose target (X_t - x) / c_out has unit variance;
    "image" for the error of the clean image X_t - c_out F.
    """
    place = t.reshape(-1, *[1] * (x.ndim - 1))
    delta = place * (coarse - x) + bridge.noise * (place * (1 - place)).sqrt() * xi
    out = deviation(place, bridge.spread, bridge.noise)
    error = predict(x + delta, t).float() - delta / out
    return (error if weighting == "scaled" else out * error).square().mean()


class Restorer(nn.Module):
    """The network F of G = X - c_out(t) F(X, t), with the spread from which c_out follows.

    The spread is measured once, before stage 2 trains.
    """

    spread: Tensor
    levels: Tensor

    def __init__(self, config: DkgmConfig) -> None:
        super().__init__()
        c = config
        self.trunk = BACKBONES[c.debias_net](
            c.debias, c.channels * (2 if c.cond_coarse else 1), c.channels, c.classes
        )
        self.noise, self.stretch = c.noise, c.stretch
        # the levels for training on the grid
        self.register_buffer("levels", torch.tensor(c.sampler().levels), persistent=False)
        self.register_buffer("spread", torch.tensor(1.0))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None,
        coarse: Tensor | None,
        told: Tensor | None = None,
    ) -> Tensor:
        """Return F at x = X_t (b, c, h, w) and t (b,) in [0, 1].

        coarse: given only if the config says cond_coarse.
        """
        seen = x if coarse is None else torch.cat([x, coarse], dim=1)
        residual: Tensor = self.trunk(seen, TIMES * t, label, told)
        if self.stretch == 1:
            return residual
        return residual + self._fine(t)[:, None, None, None] * detail(x, self.stretch)

    def _fine(self, t: Tensor) -> Tensor:
        """Return the factor (b,) of the finest detail of X in F.

        That detail is mostly noise, and a stretched trunk does not see it.
        """
        power = self.noise**2 * t * (1 - t)
        return power / (power + GRAIN**2) / deviation(t, self.spread, self.noise).clamp_min(1e-4)

    def clean(self, x: Tensor, t: Tensor, label: Tensor | None, coarse: Tensor | None) -> Tensor:
        """Return G's clean image (b, c, h, w), which is x itself at t = 0."""
        out = deviation(t, self.spread, self.noise)[:, None, None, None]
        return x - out * self(x, t, label, coarse)


class Debias(nn.Module):
    """The graph "debias": x (b, c, h, w), t (b,) in [0, TIMES], label (b, classes) -> clean image
    (b, c, h, w).
    """

    def __init__(self, net: Restorer) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net.clean(x, t * (1 / TIMES), label, None)


class Restore(nn.Module):
    """The graph "debias" for a network that also takes the coarse image (b, c, h, w)."""

    def __init__(self, net: Restorer) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, coarse: Tensor, label: Tensor | None = None) -> Tensor:
        return self.net.clean(x, t * (1 / TIMES), label, coarse)
