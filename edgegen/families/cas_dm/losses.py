"""The gate's loss of phi, and the weights of the gate's and the metric's loss at each timestep
(docs/methods/cas-dm.md, C.2.5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, ones_like


def gate_loss(
    gate: Tensor, refined: Tensor, coarse: Tensor, images: Tensor, weight: Tensor
) -> Tensor:
    """Return the mean of weight ||x_mix - x0||^2, with both branches detached; weight (b, 1, 1, 1).

    The weight does not change the best gate of a timestep.
    """
    mixed = coarse.detach() + gate * (refined - coarse).detach()
    return (weight * (mixed - images).square()).mean()


def gate_weights(kind: str, signal: np.ndarray) -> np.ndarray:
    """Return the gate loss's weight (T + 1,) at timesteps 0..T, from abar (T + 1,).

    "posterior": c_t^2, the distance of posterior means as the paper has it, 1e-8 at the noisiest;
    "bounded": abar_t.
    """
    if kind == "bounded":
        return signal
    now, before = signal[1:], signal[:-1]
    c = np.sqrt(before) * (1 - now / before) / (1 - now)
    return np.concatenate([[1.0], c**2])  # timestep 0 has no noise and is never drawn


# w_m(t) from abar_t, small at high noise because there the best image is a blur
METRIC_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "const": ones_like,
    "snr": lambda signal: (signal / (1 - signal)).clamp(max=5) / 5,
    "cutoff": lambda signal: (signal >= 0.05).float(),
}
