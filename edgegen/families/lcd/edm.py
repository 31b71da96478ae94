"""The continuous consistency function of pixels (docs/methods/latent-consistency.md, E.2.4 b;
Karras 2022, Song 2023). It is for analysis; no network trains with it.

Noise levels sigma of x = x0 + sigma * noise are in [SIGMA_MIN, SIGMA_MAX]. The functions use only
operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...core.spec import Numbers

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
Denoise = Callable[[Numbers, float], Numbers]  # x, sigma -> a clean x


def sigmas(count: int) -> np.ndarray:
    """Return noise levels (count,) that fall from SIGMA_MAX to SIGMA_MIN, evenly spaced in
    sigma ** (1 / RHO). ValueError for fewer than 2.
    """
    if count < 2:
        raise ValueError(f"a grid needs 2 noise levels or more, got {count}")
    ramp = np.linspace(SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO), count) ** RHO
    ramp[0], ramp[-1] = SIGMA_MAX, SIGMA_MIN  # exact, as the boundary condition requires
    return ramp


def consistency(x: Numbers, sigma: float | Numbers, output: Numbers) -> Numbers:
    """Return f(x, sigma) from the network's output; it is x itself at SIGMA_MIN."""
    skip = SIGMA_DATA**2 / ((sigma - SIGMA_MIN) ** 2 + SIGMA_DATA**2)
    out = (sigma - SIGMA_MIN) * SIGMA_DATA / (sigma**2 + SIGMA_DATA**2) ** 0.5
    return skip * x + out * output


def euler_step(denoise: Denoise[Numbers], x: Numbers, sigma: float, then: float) -> Numbers:
    """Take a first-order step along dx/dsigma = (x - denoise(x, sigma)) / sigma."""
    return x + (then - sigma) * (x - denoise(x, sigma)) / sigma


def heun_step(denoise: Denoise[Numbers], x: Numbers, sigma: float, then: float) -> Numbers:
    """Take a second-order step, with the mean of the slopes at both ends."""
    slope = (x - denoise(x, sigma)) / sigma
    y = x + (then - sigma) * slope
    return x + (then - sigma) * (slope + (y - denoise(y, then)) / then) / 2


def sample(f: Denoise[Numbers], levels: Sequence[float], draw: Callable[[int], Numbers]) -> Numbers:
    """Apply f(x, sigma) at each level in turn, adding noise up to the next level in between.

    draw(k): returns standard normal noise.
    """
    x = f(levels[0] * draw(0), levels[0])
    for k, level in enumerate(levels[1:], start=1):
        x = f(x + max(0.0, level**2 - SIGMA_MIN**2) ** 0.5 * draw(k), level)
    return x
