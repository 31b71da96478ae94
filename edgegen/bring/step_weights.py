"""Express one step of a solver as weights of what it combines, and assemble steps into a
sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from ..core.samplers import MultistepSampler

Pair = tuple[float, float]  # weights of x and of the denoiser's output


@dataclass(frozen=True)
class StepWeights:
    """Hold the weights of one step.

    `clean` gives the clean image; `x`, `output` and `image` give the next x; `earlier` are weights
    of what was remembered one step ago, two steps ago, and so on; `scale` multiplies x before the
    denoiser gets it.
    """

    timestep: float
    clean: Pair
    x: float
    output: float
    image: float
    earlier: tuple[float, ...] = ()
    noise: float = 0.0
    scale: float = 1.0


def clean_weights(prediction: str, signal: float) -> Pair:
    """Return the weights of x and of the prediction that give the clean image, where x = sqrt(abar)
    image + sqrt(1 - abar) noise; `signal` is abar.
    """
    image, noise = np.sqrt(signal), np.sqrt(1 - signal)
    found: dict[str, Pair] = {
        "epsilon": (1 / image, -noise / image),
        "v_prediction": (image, -noise),
        "sample": (0.0, 1.0),
    }
    return found[prediction]


def noise_weights(prediction: str, signal: float) -> Pair:
    """Return the weights of x and of the prediction that give the noise in x; `signal` is abar."""
    image, noise = np.sqrt(signal), np.sqrt(1 - signal)
    found: dict[str, Pair] = {
        "epsilon": (0.0, 1.0),
        "v_prediction": (noise, image),
        "sample": (1 / noise, -image / noise),
    }
    return found[prediction]


def assembled(
    steps: Sequence[StepWeights],
    start: float = 1.0,
    clip: float = 0.0,
    remembers: Literal["clean", "output"] = "clean",
) -> MultistepSampler:
    """Return the sampler of these steps. Raises ValueError if one of them divides by zero."""
    for step in steps:
        numbers = (
            value
            for field in fields(step)
            for value in np.atleast_1d(np.array(getattr(step, field.name), np.float64))
        )
        if not all(np.isfinite(value) for value in numbers):
            raise ValueError(
                f"the noise schedule leaves nothing to compute with at timestep "
                f"{step.timestep:g} for this prediction_type"
            )

    def column(name: str) -> tuple[float, ...]:
        return tuple(float(getattr(step, name)) for step in steps)

    def earlier(back: int) -> tuple[float, ...]:
        return _sparse([float((*step.earlier, *(0.0,) * back)[back - 1]) for step in steps], 0)

    return MultistepSampler(
        timesteps=tuple(float(np.float32(step.timestep)) for step in steps),
        clean_from_x=tuple(float(step.clean[0]) for step in steps),
        clean_from_output=tuple(float(step.clean[1]) for step in steps),
        next_from_x=column("x"),
        next_from_output=column("output"),
        next_from_clean=column("image"),
        earlier_1=earlier(1),
        earlier_2=earlier(2),
        earlier_3=earlier(3),
        earlier_4=earlier(4),
        noise=_sparse(column("noise"), 0),
        scale=_sparse(column("scale"), 1),
        start=float(start),
        clip=float(clip),
        remembers=remembers,
    )


def _sparse(values: Sequence[float], usual: float) -> tuple[float, ...]:
    """Return the values, or an empty tuple if all are the usual one."""
    return () if all(value == usual for value in values) else tuple(values)
