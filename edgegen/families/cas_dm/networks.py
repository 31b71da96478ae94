"""Cas-DM's two networks (docs/methods/cas-dm.md, C.2.2 to C.2.4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.samplers import alphas_bar
from ..unet import GRAIN, UNet, detail
from .config import CasDmConfig


def _start(bias: float) -> float:
    """Return the gate at which "sigmoid" starts, so that the other forms start there too."""
    return 1 / (1 + math.exp(-bias))


# phi's last channel a (b, 1, h, w), gate_bias -> r (b, 1, h, w)
GATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": lambda a, bias: torch.sigmoid(a + bias),
    "clip": lambda a, bias: (a + _start(bias)).clamp(0, 1).detach() + (a - a.detach()),  # see below
    # not bounded, so it may also extrapolate past either branch
    "linear": lambda a, bias: a + _start(bias),
    # one r per image and timestep
    "scalar": lambda a, bias: torch.sigmoid(a.mean((2, 3), keepdim=True) + bias).expand_as(a),
}
# A plain clamp has no gradient outside [0, 1], so a gate that has left it never returns (test 5
# saw it stay at 1). "clip" therefore passes the gradient as if there were no clamp.


class Refiner(nn.Module):
    """phi: coarse and x (b, c, h, w), t (b,), label (b, classes) -> (b, c + 1, h, w): clean image,
    then the gate r.

    r is in [0, 1], without bounds if the config's gate is "linear", and 1 everywhere if it is
    "none".
    """

    def __init__(self, config: CasDmConfig) -> None:
        super().__init__()
        self.config = config
        cin = config.channels * (2 if config.phi_input == "x0+xt" else 1)
        self.trunk = UNet(
            config.phi, cin, config.channels + (config.gate != "none"), config.classes
        )

    def forward(
        self,
        coarse: Tensor,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        told: Tensor | None = None,
    ) -> Tensor:
        seen = torch.cat([coarse, x], dim=1) if self.config.phi_input == "x0+xt" else coarse
        out = self.trunk.features(seen, t, label, told)
        channels = self.config.channels
        image = (
            out["output"][:, :channels] + coarse
            if self.config.residual
            else out["output"][:, :channels]
        )
        if self.config.gate == "none":
            return torch.cat([image, torch.ones_like(image[:, :1])], dim=1)
        last = (
            self._alone(out["up0"])
            if self.training and self.config.gate_trunk_detach
            else out["output"]
        )
        return torch.cat(
            [image, GATES[self.config.gate](last[:, channels:], self.config.gate_bias)], dim=1
        )

    def _alone(self, h: Tensor) -> Tensor:
        """Compute the last layer's output from detached features, so its gradient trains only that
        layer.
        """
        return F.pixel_shuffle(self.trunk.head(h.detach()), self.trunk.patch)


def wiener(prediction: str, signal: np.ndarray) -> np.ndarray:
    """Return the factor of x in the best linear estimate of epsilon or v at each abar, if images
    are white noise with standard deviation GRAIN.
    """
    power = signal * GRAIN**2 + 1 - signal
    return (
        np.sqrt(1 - signal)
        / power
        * (np.sqrt(signal) * (1 - GRAIN**2) if prediction == "v" else 1.0)
    )


class NoisePredictor(nn.Module):
    """theta: x (b, c, h, w), t (b,), label (b, classes) -> (b, c, h, w), epsilon or v as the config
    says.

    A stretched trunk does not see the finest noise, which would stay in its images, so a Wiener
    filter is added for that part.
    """

    fine: Tensor

    def __init__(self, config: CasDmConfig) -> None:
        super().__init__()
        self.trunk = UNet(config.theta, config.channels, config.channels, config.classes)
        self.stretch = config.stretch
        if self.stretch > 1:
            table = wiener(config.prediction, alphas_bar(config.schedule, config.timesteps))
            self.register_buffer("fine", torch.from_numpy(table).float(), persistent=False)

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, told: Tensor | None = None
    ) -> Tensor:
        out = self.trunk(x, t, label, told)
        if self.stretch == 1:
            return out
        return out + self.fine.index_select(0, t.long())[:, None, None, None] * detail(
            x, self.stretch
        )
