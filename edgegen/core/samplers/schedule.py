"""Noise schedules, and the conversions between a noised image, its noise and its clean image."""

from __future__ import annotations

import numpy as np

from ..spec import Numbers


def alphas_bar(schedule: str, steps: int) -> np.ndarray:
    """Return the cumulative signal power abar (steps + 1,), float64, with abar[0] = 1
    (docs/methods/cas-dm.md, C.2.1).

    "linear": beta from 1e-4 to 0.02 at 1000 steps, scaled by 1000 / steps; "ldm": sqrt(beta) from
    sqrt(.0015) to sqrt(.0195), with beta scaled in the same way; "cosine": cos^2, with beta clipped
    at 0.999. ValueError for an unknown schedule or too few steps.
    """
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, steps) * 1000 / steps
        if beta[-1] >= 1:
            raise ValueError(f"the linear schedule needs more than 20 timesteps, got {steps}")
    elif schedule == "ldm":
        beta = np.linspace(0.0015**0.5, 0.0195**0.5, steps) ** 2 * 1000 / steps
        if beta[-1] >= 1:
            raise ValueError(f"the ldm schedule needs more than 19 timesteps, got {steps}")
    elif schedule == "cosine":
        u = np.arange(steps + 1) / steps
        curve = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    else:
        raise ValueError(f"unknown schedule {schedule!r}; known: cosine, ldm, linear")
    return np.concatenate([[1.0], np.cumprod(1 - beta)])


def trailing(timesteps: int, steps: int, power: float = 1.0) -> tuple[int, ...]:
    """Return `steps` falling timesteps, beginning at `timesteps`, which is pure noise; for example
    (1000, 4) gives 1000, 750, 500, 250.

    power: timestep k is timesteps * (1 - k / steps) ** power; below 1 puts more of them at high
    noise.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps must be between 1 and {timesteps}, got {steps}")
    if not 0 < power <= 4:
        raise ValueError(f"the spacing power must be above 0 and at most 4, got {power}")
    return tuple(round(timesteps * (1 - k / steps) ** power) for k in range(steps))


def clean_image(
    x: Numbers, predicted: Numbers, signal: float | Numbers, prediction: str
) -> Numbers:
    """Return the clean image x0 from the network's output at signal abar.

    It solves x = sqrt(abar) x0 + sqrt(1 - abar) eps; v is sqrt(abar) eps - sqrt(1 - abar) x0.
    """
    if prediction == "v":
        return signal**0.5 * x - (1 - signal) ** 0.5 * predicted
    return (x - (1 - signal) ** 0.5 * predicted) * (1 / signal**0.5)


def noise_of(x: Numbers, predicted: Numbers, signal: float | Numbers, prediction: str) -> Numbers:
    """Return the noise eps from the network's output at signal abar (see `clean_image`)."""
    if prediction == "v":
        return (1 - signal) ** 0.5 * x + signal**0.5 * predicted
    return predicted
