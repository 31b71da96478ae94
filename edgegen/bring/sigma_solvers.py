"""Define solvers that step between sigmas (noise over image): Euler, ancestral Euler and
DPM-Solver++.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ..core.samplers import MultistepSampler
from ..core.spec import Array
from .noise_levels import (
    Doubles,
    exponential,
    karras,
    last_excluded,
    sigmas_of,
    signal_levels,
    timesteps_between,
    timesteps_of,
)
from .scheduler_fields import (
    DpmFields,
    EulerAncestralFields,
    EulerFields,
)
from .step_weights import Pair, StepWeights, assembled, clean_weights

NEAR = 1e-3  # tolerance in timesteps
FEW_STEPS = 15  # with fewer steps, the last step of a second-order solver is of first order


def _signal(sigma: float) -> float:
    """Return abar."""
    return 1 / (sigma**2 + 1)


def _unscaled(prediction: str, sigma: float) -> Pair:
    """Return the weights of the clean image if x is the image plus sigma times noise."""
    found: dict[str, Pair] = {
        "epsilon": (1.0, -sigma),
        "v_prediction": (1 / (sigma**2 + 1), -sigma / (sigma**2 + 1) ** 0.5),
        "sample": (0.0, 1.0),
    }
    return found[prediction]


def _start(spacing: str, largest: float) -> float:
    return largest if spacing in ("linspace", "trailing") else (largest**2 + 1) ** 0.5


def _respaced(fields: EulerFields | DpmFields, sigmas: Doubles, steps: int) -> Doubles | None:
    """Return sigmas between the largest and the smallest if the fields ask for a spacing of their
    own, else None.

    Raises ValueError if they ask for two.
    """
    low = float(sigmas[-1]) if fields.sigma_min is None else fields.sigma_min
    high = float(sigmas[0]) if fields.sigma_max is None else fields.sigma_max
    if fields.use_karras_sigmas and fields.use_exponential_sigmas:
        raise ValueError("use_karras_sigmas and use_exponential_sigmas are both true")
    if fields.use_karras_sigmas:
        return karras(low, high, steps)
    return exponential(low, high, steps) if fields.use_exponential_sigmas else None


def _ended(sigmas: Doubles, fields: EulerFields | DpmFields, trained: Array) -> Array:
    last = 0.0 if fields.final_sigmas_type == "zero" else float(trained[0])
    return np.append(sigmas, last).astype(np.float32)


def euler(fields: EulerFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by Karras et al. 2022, algorithm 2 without churn: a step along the slope at its
    beginning.
    """
    trained = sigmas_of(signal_levels(fields), fields.rescale_betas_zero_snr)
    count = fields.num_train_timesteps
    times = timesteps_between(fields.timestep_spacing, count, steps, fields.steps_offset)
    if fields.interpolation_type == "linear":
        sigmas = np.interp(times, np.arange(count), trained)
    else:
        sigmas = exponential(float(trained[0]), float(trained[-1]), steps + 1)
    if (respaced := _respaced(fields, sigmas, steps)) is not None:
        sigmas, times = respaced, timesteps_of(respaced, trained)
    levels = _ended(sigmas, fields, trained)
    if fields.timestep_type == "continuous" and fields.prediction_type == "v_prediction":
        times = 0.25 * np.log(levels[:steps])
    found = [
        StepWeights(
            timestep=float(t),
            clean=_unscaled(fields.prediction_type, now),
            x=then / now,
            output=0.0,
            image=1 - then / now,
            scale=_signal(now) ** 0.5,
        )
        for t, (now, then) in zip(times, pairwise(map(float, levels[: steps + 1])), strict=True)
    ]
    return assembled(found, start=_start(fields.timestep_spacing, float(levels.max())))


def ancestral_euler(fields: EulerAncestralFields, steps: int, eta: float) -> MultistepSampler:
    """Solve like Euler, but step to a smaller sigma and add as much fresh noise as is
    then missing.
    """
    trained = sigmas_of(signal_levels(fields), fields.rescale_betas_zero_snr)
    count = fields.num_train_timesteps
    times = timesteps_between(fields.timestep_spacing, count, steps, fields.steps_offset)
    levels = np.append(np.interp(times, np.arange(count), trained), 0.0).astype(np.float32)
    found = []
    for t, (now, then) in zip(times, pairwise(map(float, levels)), strict=True):
        fresh = max(then**2 * (now**2 - then**2), 0.0) ** 0.5 / now
        down = max(then**2 - fresh**2, 0.0) ** 0.5
        found.append(
            StepWeights(
                timestep=float(t),
                clean=_unscaled(fields.prediction_type, now),
                x=down / now,
                output=0.0,
                image=1 - down / now,
                noise=fresh,
                scale=_signal(now) ** 0.5,
            )
        )
    return assembled(found, start=_start(fields.timestep_spacing, float(levels.max())))


def dpm_solver(fields: DpmFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by DPM-Solver++ of first and second order (Lu et al. 2022, algorithms 1 and 2), or its
    stochastic form.
    """
    trained = sigmas_of(signal_levels(fields), fields.rescale_betas_zero_snr)
    times, levels = _dpm_grid(fields, trained, steps)
    found = []
    for k, (t, now, then) in enumerate(zip(times, levels, levels[1:], strict=False)):
        last = k == len(times) - 1 and (
            fields.euler_at_final
            or (fields.lower_order_final and len(times) < FEW_STEPS)
            or fields.final_sigmas_type == "zero"
        )
        first_order = fields.solver_order == 1 or k == 0 or last
        x, image, earlier, noise = _dpm_step(
            fields, now, then, None if first_order else levels[k - 1]
        )
        found.append(
            StepWeights(
                timestep=t,
                clean=clean_weights(fields.prediction_type, _signal(now)),
                x=x,
                output=0.0,
                image=image,
                earlier=(earlier,),
                noise=noise,
            )
        )
    return assembled(found)


def _dpm_grid(fields: DpmFields, trained: Array, steps: int) -> tuple[list[int], list[float]]:
    """Return the timesteps, and one sigma more than those."""
    count = fields.num_train_timesteps
    # lambda, the logarithm of image over noise, falls with the timestep
    clear = int((-np.log(trained) >= fields.lambda_min_clipped).sum())
    times = last_excluded(fields.timestep_spacing, count, steps, fields.steps_offset, clear)
    respaced = _respaced(fields, trained[::-1], steps)
    if respaced is None:
        sigmas: Doubles = np.interp(times, np.arange(count), trained)
    else:
        sigmas, places = respaced, timesteps_of(respaced, trained)
        if fields.use_karras_sigmas and fields.beta_schedule != "squaredcos_cap_v2":
            places = places.round()
        # cut to whole timesteps, but keep one that only rounding has made smaller
        times = [int(place + NEAR) for place in places]
    return times, [float(sigma) for sigma in _ended(sigmas, fields, trained)]


def _dpm_step(
    fields: DpmFields, now: float, then: float, before: float | None
) -> tuple[float, float, float, float]:
    """Return the weights of x, the clean image, the clean image of the step before, and fresh
    noise.

    `before` is the sigma of that step, None for first order.
    """
    image_now, image_then = _signal(now) ** 0.5, _signal(then) ** 0.5
    ratio = then / now  # equals exp(-h), with h the step in lambda
    moved = (then * image_then) / (now * image_now)
    stochastic = fields.algorithm_type == "sde-dpmsolver++"
    power = 2 if stochastic else 1
    x = moved * ratio if stochastic else moved
    gain = image_then * (1 - ratio**power)
    noise = then * image_then * (1 - ratio**2) ** 0.5 if stochastic else 0.0
    if before is None:
        return x, gain, 0.0, noise
    h, h_before = math.log(now / then), math.log(before / now)
    bend = gain / 2
    if fields.solver_type == "heun":
        bend = image_then * (1 - (1 - ratio**power) / (power * h))
    slope = bend * h / h_before  # weight of the clean image's change since the step before
    return x, gain + slope, -slope, noise
