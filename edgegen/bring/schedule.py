"""Turn scheduler_config.json and a number of steps into the numbers of a MultistepSampler.

Each class of diffusers has one line: its fields, and the function that computes for each step what
`step` of that class would. A scheduler that is not listed is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import numpy as np

from ..core.files import JsonObject
from ..core.samplers import MultistepSampler
from ..errors import InputError
from . import sigma_solvers, signal_solvers
from .scheduler_fields import (
    DdimFields,
    DdpmFields,
    DpmFields,
    EulerAncestralFields,
    EulerFields,
    Fields,
    LcmFields,
    PndmFields,
    fields_of,
)

MOST_STEPS = 1000  # most steps of a bundle's sampler


@dataclass(frozen=True)
class SchedulerRule(Generic[Fields]):
    """Describe a scheduler class; `steps` is its pipeline's default, `most_eta` the largest share
    of fresh noise that can be chosen.
    """

    fields: type[Fields]
    solver: Callable[[Fields, int, float], MultistepSampler]
    steps: int = 50
    most_eta: float = 0.0

    def sampler(self, config: JsonObject, path: Path, steps: int, eta: float) -> MultistepSampler:
        """Return the sampler. Raises ValueError for steps that the fields do not allow."""
        return self.solver(fields_of(self.fields, config, path), steps, eta)


SCHEDULERS: Mapping[str, SchedulerRule] = {  # type: ignore[type-arg]
    "DDPMScheduler": SchedulerRule(DdpmFields, signal_solvers.ddpm),
    "DDIMScheduler": SchedulerRule(DdimFields, signal_solvers.ddim, most_eta=1.0),
    "PNDMScheduler": SchedulerRule(PndmFields, signal_solvers.pndm),
    "LCMScheduler": SchedulerRule(LcmFields, signal_solvers.latent_consistency, steps=4),
    "EulerDiscreteScheduler": SchedulerRule(EulerFields, sigma_solvers.euler),
    "EulerAncestralDiscreteScheduler": SchedulerRule(
        EulerAncestralFields, sigma_solvers.ancestral_euler
    ),
    "DPMSolverMultistepScheduler": SchedulerRule(DpmFields, sigma_solvers.dpm_solver, steps=25),
}


def schedule(
    config: JsonObject, path: Path, steps: int | None = None, eta: float = 0.0
) -> MultistepSampler:
    """Return the solver of a scheduler_config.json, which was read from `path`.

    Raises InputError for a class or a field that cannot be reproduced, and for steps that it cannot
    take.
    """
    kind = config.get("_class_name")
    rule = SCHEDULERS.get(str(kind))
    if rule is None:
        raise InputError(
            "E-BRING",
            f"the scheduler is {kind!r:.80}, which is not one that can be reproduced",
            path=path,
            hint=f"convert it to one of {', '.join(SCHEDULERS)}",
        )
    if not 0 <= eta <= rule.most_eta:
        raise InputError("E-BRING", f"{kind} cannot take eta {eta:g}", path=path)
    trained = config.get("num_train_timesteps", MOST_STEPS)
    most = min(MOST_STEPS, trained) if type(trained) is int else MOST_STEPS
    count = min(rule.steps, most) if steps is None else steps
    if not 1 <= count <= most:
        raise InputError("E-BRING", f"{kind} takes 1 to {most} steps here, got {count}", path=path)
    try:
        with np.errstate(all="ignore"):
            return rule.sampler(config, path, count, eta)
    except (ValueError, ArithmeticError) as error:
        raise InputError(
            "E-BRING", f"{kind} cannot take {count} steps: {error}", path=path
        ) from error
