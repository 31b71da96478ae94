"""Define solvers that step between levels of abar: DDPM, DDIM, PNDM and latent consistency."""

from __future__ import annotations

import numpy as np

from ..core.samplers import MultistepSampler
from ..core.spec import Array
from .noise_levels import rounded_timesteps, signal_levels
from .scheduler_fields import Clipping, DdimFields, DdpmFields, LcmFields, PndmFields
from .step_weights import StepWeights, assembled, clean_weights, noise_weights

SIGMA_DATA = 0.5  # of a consistency model's boundary condition (Luo et al. 2023)


def _clip(fields: Clipping) -> float:
    return fields.clip_sample_range if fields.clip_sample else 0.0


def _level(levels: Array, timestep: int, beyond: float) -> float:
    """Return abar in double precision; `beyond` is its value below timestep 0."""
    return float(levels[timestep]) if timestep >= 0 else beyond


def ddpm(fields: DdpmFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by ancestral sampling (Ho et al. 2020, equations 7 and 15)."""
    levels = signal_levels(fields)
    times = rounded_timesteps(
        fields.timestep_spacing, fields.num_train_timesteps, steps, fields.steps_offset
    )
    found = []
    for t, s in zip(times, (*times[1:], -1), strict=True):
        now, then = _level(levels, t, 1.0), _level(levels, s, 1.0)
        kept = now / then
        small = max((1 - then) / (1 - now) * (1 - kept), 0.0)
        variance = 1 - kept if fields.variance_type == "fixed_large" else small
        found.append(
            StepWeights(
                timestep=t,
                clean=clean_weights(fields.prediction_type, now),
                x=kept**0.5 * (1 - then) / (1 - now),
                output=0.0,
                image=then**0.5 * (1 - kept) / (1 - now),
                noise=variance**0.5 if t > 0 else 0.0,
            )
        )
    return assembled(found, clip=_clip(fields))


def ddim(fields: DdimFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by DDIM (Song et al. 2021, equations 12 and 16)."""
    levels, stride = signal_levels(fields), fields.num_train_timesteps // steps
    last = 1.0 if fields.set_alpha_to_one else float(levels[0])
    found = []
    for t in rounded_timesteps(
        fields.timestep_spacing, fields.num_train_timesteps, steps, fields.steps_offset
    ):
        now, then = _level(levels, t, 1.0), _level(levels, t - stride, last)
        fresh = eta * max((1 - then) / (1 - now) * (1 - now / then), 0.0) ** 0.5
        direction = max(1 - then - fresh**2, 0.0) ** 0.5
        noise = noise_weights(fields.prediction_type, now)
        found.append(
            StepWeights(
                timestep=t,
                clean=clean_weights(fields.prediction_type, now),
                x=direction * noise[0],
                output=direction * noise[1],
                image=then**0.5,
                noise=fresh,
            )
        )
    return assembled(found, clip=_clip(fields))


# Adams-Bashforth weights of the newest output and those before it; the second step is a corrector
ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def pndm(fields: PndmFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by a pseudo linear multistep (Liu et al. 2022, equations 9 and 12) that begins with a
    predictor and a corrector: the second step starts again where the first one began, and its
    output is not remembered.
    """
    levels = signal_levels(fields)
    last = 1.0 if fields.set_alpha_to_one else float(levels[0])
    stride = fields.num_train_timesteps // steps
    times = rounded_timesteps(
        fields.timestep_spacing, fields.num_train_timesteps, steps, fields.steps_offset
    )
    if steps > 1:
        times = [times[0], times[1], *times[1:]]
    found = []
    first = (1.0, 0.0)  # weights of x and of the output in the first step
    remembered: list[int] = []
    for k, t in enumerate(times):
        if k != 1:
            remembered = [k, *remembered][:4]
            x, output = _transfer(fields, levels, (t, t - stride), last)
            weights = dict(zip(remembered, ADAMS[len(remembered) - 1], strict=True))
            weights = {step: output * weight for step, weight in weights.items()}
        else:
            x, output = _transfer(fields, levels, (t + stride, t), last)
            # x before the first step is (x now - first[1] * its output) / first[0]
            x = x / first[0]
            weights = {0: output / 2 - x * first[1], 1: output / 2}
        first = (x, weights[0]) if k == 0 else first
        found.append(
            StepWeights(
                timestep=t,
                clean=clean_weights(fields.prediction_type, _level(levels, t, 1.0)),
                x=x,
                output=weights[k],
                image=0.0,
                earlier=tuple(weights.get(k - back, 0.0) for back in range(1, 5)),
            )
        )
    return assembled(found, remembers="output")


def _transfer(
    fields: PndmFields, levels: Array, between: tuple[int, int], last: float
) -> tuple[float, float]:
    """Return the weights of x and of the predicted output that move x from one timestep to an
    earlier one (equation 9).

    Raises ValueError for a timestep that the model does not know.
    """
    if between[0] >= len(levels):
        raise ValueError(f"steps_offset needs timestep {between[0]}, which the model does not know")
    now, then = (_level(levels, t, last) for t in between)
    x = (then / now) ** 0.5
    slope = (now - then) / (now * (1 - then) ** 0.5 + (now * (1 - now) * then) ** 0.5)
    of_x, of_output = noise_weights(fields.prediction_type, now)
    return x + slope * of_x, slope * of_output


def latent_consistency(fields: LcmFields, steps: int, eta: float) -> MultistepSampler:
    """Solve by Luo et al. 2023, algorithm 3: go straight to a clean image, then add noise again."""
    levels, grid = signal_levels(fields), fields.original_inference_steps
    if not steps <= grid <= fields.num_train_timesteps:
        raise ValueError(
            f"original_inference_steps is {grid}, and must be from the {steps} steps asked for to "
            f"num_train_timesteps, {fields.num_train_timesteps}"
        )
    trained = np.arange(grid, 0, -1) * (fields.num_train_timesteps // grid) - 1
    picks = np.floor(np.linspace(0, grid, steps, endpoint=False)).astype(int)
    times = [int(t) for t in trained[picks]]
    found = []
    for t, s in zip(times, (*times[1:], None), strict=True):
        then = 1.0 if s is None else float(levels[s])
        scaled = t * fields.timestep_scaling
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
        found.append(
            StepWeights(
                timestep=t,
                clean=clean_weights(fields.prediction_type, float(levels[t])),
                x=then**0.5 * skip,
                output=0.0,
                image=then**0.5 * out,
                noise=(1 - then) ** 0.5,
            )
        )
    return assembled(found, clip=_clip(fields))
