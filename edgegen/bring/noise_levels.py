"""Compute how much of an image is left at each timestep, which timesteps a solver visits, and what
noise it then sees. This is the arithmetic that diffusers' schedulers share, in the same precision.

`signal` is abar, the share of the image's power, float32; `sigma` is noise over image, sqrt(1 /
abar - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np

from ..core.spec import Array

Spacing = Literal["linspace", "leading", "trailing"]
Doubles = np.ndarray
ALMOST_NOTHING = 2.0**-24  # abar at which a schedule of sigmas ends if its signal is zero
LARGEST_BETA = 0.999


class BetaFields(Protocol):
    """Describe what a noise schedule is made from."""

    @property
    def num_train_timesteps(self) -> int: ...
    @property
    def beta_start(self) -> float: ...
    @property
    def beta_end(self) -> float: ...
    @property
    def beta_schedule(self) -> str: ...
    @property
    def trained_betas(self) -> list[float] | None: ...
    @property
    def rescale_betas_zero_snr(self) -> bool: ...


def _evenly(start: float, end: float, count: int) -> Array:
    """Return evenly spaced float32 numbers as torch.linspace rounds them: from both ends towards
    the middle.
    """
    low, high = np.float32(start), np.float32(end)
    step = np.float64((high - low) / np.float32(max(count - 1, 1)))
    place = np.arange(count)
    found: Array = np.where(
        place < count // 2, low + step * place, high - step * (count - 1 - place)
    ).astype(np.float32)
    return found


def _capped(remaining: Callable[[float], float], count: int) -> Array:
    """Return betas that leave `remaining` of the signal's power at each share of the way."""
    steps = [
        min(1 - remaining((i + 1) / count) / remaining(i / count), LARGEST_BETA)
        for i in range(count)
    ]
    return np.array(steps, np.float32)


def _cosine(share: float) -> float:
    return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(share: float) -> float:
    half = 0.5 - share
    log_snr = -0.5 * math.copysign(1, half) * math.log(1 - 2 * math.fabs(half) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


def _sigmoid(fields: BetaFields) -> Array:
    curve = 1 / (1 + np.exp(-_evenly(-6, 6, fields.num_train_timesteps)))
    found = curve * np.float32(fields.beta_end - fields.beta_start) + np.float32(fields.beta_start)
    return found.astype(np.float32)


BETAS: Mapping[str, Callable[[BetaFields], Array]] = {
    "linear": lambda f: _evenly(f.beta_start, f.beta_end, f.num_train_timesteps),
    "scaled_linear": lambda f: (
        _evenly(f.beta_start**0.5, f.beta_end**0.5, f.num_train_timesteps) ** 2
    ),
    "squaredcos_cap_v2": lambda f: _capped(_cosine, f.num_train_timesteps),
    "laplace": lambda f: _capped(_laplace, f.num_train_timesteps),
    "sigmoid": _sigmoid,
}


def signal_levels(fields: BetaFields) -> Array:
    """Return abar at each timestep that the model was trained at, from 0 on.

    Raises ValueError for trained betas that are not one for each timestep, or for betas outside [0,
    1).
    """
    trained = fields.trained_betas
    if trained is None:
        betas = BETAS[fields.beta_schedule](fields)
    elif len(trained) != fields.num_train_timesteps:
        raise ValueError(
            f"trained_betas has {len(trained)} numbers and num_train_timesteps is "
            f"{fields.num_train_timesteps}"
        )
    else:
        betas = np.array(trained, np.float32)
    if not ((betas >= 0) & (betas < 1)).all():
        raise ValueError("beta_start, beta_end or trained_betas give a beta outside 0 to 1")
    levels = _product(1 - betas)
    return _product(_without_signal_at_the_end(levels)) if fields.rescale_betas_zero_snr else levels


def _product(alphas: Array) -> Array:
    """Return cumulative products, computed in double and kept as float32."""
    found: Array = np.cumprod(alphas.astype(np.float64)).astype(np.float32)
    return found


def _without_signal_at_the_end(levels: Array) -> Array:
    """Return the alphas of the schedule, shifted and stretched so that nothing of the image is left
    at its end (Lin et al. 2023, Algorithm 1).
    """
    roots = np.sqrt(levels)
    first, last = roots[0], roots[-1]
    squares: Array = ((roots - last) * (first / (first - last))) ** 2
    # diffusers goes through betas and back, which rounds
    betas = 1 - np.concatenate([squares[:1], squares[1:] / squares[:-1]])
    alphas: Array = 1 - betas
    return alphas


def sigmas_of(levels: Array, rescaled: bool) -> Array:
    """Return the sigma of each trained timestep; if `rescaled`, the last level is 0 and is replaced
    by almost nothing.
    """
    if rescaled:
        levels = np.concatenate([levels[:-1], np.array([ALMOST_NOTHING], np.float32)])
    found: Array = np.sqrt((1 - levels) / levels)
    return found


def rounded_timesteps(spacing: Spacing, trained: int, steps: int, offset: int) -> list[int]:
    """Return whole timesteps, falling, as solvers over abar space them. Raises ValueError for
    unknown ones.
    """
    if spacing == "linspace":
        found: Doubles = np.linspace(0, trained - 1, steps).round()[::-1]
    elif spacing == "leading":
        found = (np.arange(steps) * (trained // steps))[::-1] + offset
    else:
        found = np.round(np.arange(trained, 0, -(trained / steps))) - 1
    return _inside([int(t) for t in found], trained)


def timesteps_between(spacing: Spacing, trained: int, steps: int, offset: int) -> Doubles:
    """Return timesteps, which may have fractions, as solvers over sigma space them."""
    if spacing == "linspace":
        return np.linspace(0, trained - 1, steps, dtype=np.float32)[::-1]
    return np.array(rounded_timesteps(spacing, trained, steps, offset), np.float32)


def last_excluded(spacing: Spacing, trained: int, steps: int, offset: int, end: int) -> list[int]:
    """Return timesteps as multistep solvers space them: those of one more step, without the last.
    Timesteps from `end` on are left out.
    """
    if spacing == "linspace":
        found: Doubles = np.linspace(0, end - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        found = (np.arange(steps + 1) * (end // (steps + 1)))[::-1][:-1] + offset
    else:
        found = np.arange(end, 0, -(trained / steps)).round() - 1
    return _inside([int(t) for t in found], trained)


def _inside(found: list[int], trained: int) -> list[int]:
    if not all(0 <= t < trained for t in found):
        raise ValueError(
            f"timestep_spacing and steps_offset give the timesteps {max(found)} to {min(found)}, "
            f"and the model knows 0 to {trained - 1}"
        )
    return found


def karras(low: float, high: float, steps: int) -> Doubles:
    """Return falling sigmas that are closer together where they are small (Karras et al. 2022,
    equation 5).
    """
    first, last, ramp = high ** (1 / 7), low ** (1 / 7), np.linspace(0, 1, steps)
    found: Doubles = (first + ramp * (last - first)) ** 7
    return found


def exponential(low: float, high: float, steps: int) -> Doubles:
    """Return falling sigmas with a constant ratio."""
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def timesteps_of(sigmas: Doubles, trained: Array) -> Doubles:
    """Return the timesteps, with fractions, at which the trained schedule has these sigmas,
    interpolated between their logarithms.
    """
    logs, wanted = np.log(trained), np.log(np.maximum(sigmas, 1e-10))
    low = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    share = np.clip((logs[low] - wanted) / (logs[low] - logs[low + 1]), 0, 1)
    found: Doubles = (1 - share) * low + share * (low + 1)
    return found
