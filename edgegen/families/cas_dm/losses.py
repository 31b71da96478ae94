"""What phi is taught (docs/methods/cas-dm.md, C.2.5): the gate's loss and its weight, and the
metric's weight, at each timestep.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, ones_like


def gate_loss(
    gate: Tensor, refined: Tensor, coarse: Tensor, images: Tensor, weight: Tensor
) -> Tensor:
    """weight ||x_mix - x0||^2 with both branches detached, weight (b, 1, 1, 1): each timestep has
    the same best gate.
    """
    mixed = coarse.detach() + gate * (refined - coarse).detach()
    return (weight * (mixed - images).square()).mean()


def gate_weights(kind: str, signal: np.ndarray) -> np.ndarray:
    """The gate loss's weight at timesteps 0..T, (T + 1,), from abar (T + 1,).

    "posterior": c_t^2, the distance of posterior means as the paper has it, 1e-8 at the noisiest;
    "bounded": abar_t.
    """
    if kind == "bounded":
        return signal
    now, before = signal[1:], signal[:-1]
    c = np.sqrt(before) * (1 - now / before) / (1 - now)
    return np.concatenate([[1.0], c**2])  # timestep 0 has no noise and is never drawn


# abar_t -> w_m(t): at high noise the best image is a blur
METRIC_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "const": ones_like,
    "snr": lambda signal: (signal / (1 - signal)).clamp(max=5) / 5,
    "cutoff": lambda signal: (signal >= 0.05).float(),
}
