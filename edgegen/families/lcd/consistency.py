"""The discrete consistency function of latents and the functions for its distillation
(docs/methods/latent-consistency.md, E.2.4 a). They use only operators.

Timesteps count from 0 to T - 1 as in the literature; `now` and `then` are abar at a timestep t,
that is alphas_bar(...)[t + 1].
"""

from __future__ import annotations

import numpy as np

from ...core.samplers import boundary, clean_image, noise_of
from ...core.spec import Numbers, Values


def solver_grid(timesteps: int, count: int) -> np.ndarray:
    """Return tau_j = k j - 1 for j = 1..count with k = timesteps / count; (1000, 50) gives 19, 39,
    ... 999. ValueError unless count divides timesteps.
    """
    if not 1 <= count <= timesteps or timesteps % count:
        raise ValueError(f"{timesteps} timesteps do not divide into a grid of {count}")
    return np.arange(1, count + 1) * (timesteps // count) - 1


def few_steps(timesteps: int, count: int, steps: int) -> tuple[int, ...]:
    """Return the reversed grid at floor(linspace(0, count, steps)), without the end; with
    (1000, 50), 4 steps give 999, 759, 499, 259.
    """
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be between 1 and {count}, got {steps}")
    picks = np.floor(np.linspace(0, count, steps, endpoint=False)).astype(int)
    return tuple(int(t) for t in solver_grid(timesteps, count)[::-1][picks])


def consistency(
    x: Numbers, t: Numbers, predicted: Numbers, now: float | Numbers, prediction: str
) -> Numbers:
    """Return f(x, t) = c_skip(t) x + c_out(t) x0, the end of x's trajectory; it is x at t = 0."""
    skip, out = boundary(t)
    return skip * x + out * clean_image(x, predicted, now, prediction)


def guided(conditional: Numbers, null: Numbers, g: float | Numbers) -> Numbers:
    """Apply classifier-free guidance: g = 1 gives the conditional branch, g = 0 the null branch;
    the student's w is g - 1.
    """
    return null + g * (conditional - null)


def ddim_step(
    x: Numbers,
    predicted: Numbers,
    now: float | Numbers,
    then: float | Numbers,
    prediction: str,
) -> Numbers:
    """Take one deterministic step of the probability flow from abar `now` to abar `then`."""
    clean = clean_image(x, predicted, now, prediction)
    return then**0.5 * clean + (1 - then) ** 0.5 * noise_of(x, predicted, now, prediction)


def pseudo_huber(a: Values, b: float | Values, c: float = 1e-3) -> Values:
    """Return mean(sqrt((a - b)^2 + c^2) - c), which is quadratic near 0 and linear elsewhere."""
    return (((a - b) ** 2 + c * c) ** 0.5 - c).mean()
