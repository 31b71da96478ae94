"""Define the fields of scheduler_config.json, with diffusers' own defaults, and those of their
values that can be reproduced. Any other value, and any field that no scheduler has, is refused by
its name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, ValidationError

from ..core.files import JsonObject
from ..errors import InputError
from .noise_levels import Spacing

Prediction = Literal["epsilon", "v_prediction", "sample"]
NoSample = Literal["epsilon", "v_prediction"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Positive = Annotated[float, Field(gt=0)]

# Files keep fields of the schedulers that they were converted from, which diffusers ignores too.
OF_OTHERS = frozenset(
    {
        "algorithm_type",
        "clip_sample",
        "clip_sample_range",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "final_sigmas_type",
        "flow_shift",
        "interpolation_type",
        "lambda_min_clipped",
        "lower_order_final",
        "original_inference_steps",
        "predict_x0",
        "prediction_type",
        "rescale_betas_zero_snr",
        "rho",
        "sample_max_value",
        "set_alpha_to_one",
        "shift_terminal",
        "sigma_data",
        "sigma_max",
        "sigma_min",
        "sigma_schedule",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "steps_offset",
        "thresholding",
        "time_shift_type",
        "timestep_scaling",
        "timestep_spacing",
        "timestep_type",
        "use_beta_sigmas",
        "use_dynamic_shifting",
        "use_exponential_sigmas",
        "use_flow_sigmas",
        "use_karras_sigmas",
        "use_lu_lambdas",
        "variance_type",
    }
)


class SchedulerFields(BaseModel):
    """Hold the fields that all schedulers have."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    beta_start: Positive = 0.0001
    beta_end: Positive = 0.02
    beta_schedule: Literal[Betas, "laplace", "sigmoid"] = "linear"
    trained_betas: list[float] | None = None
    rescale_betas_zero_snr: bool = False
    steps_offset: int = 0


class Clipping(SchedulerFields):
    """Hold the fields of schedulers that clip the clean image."""

    clip_sample: bool = True
    clip_sample_range: Positive = 1.0
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: float = 0.995  # only for thresholding
    sample_max_value: float = 1.0  # only for thresholding


class DdpmFields(Clipping):
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large"] = "fixed_small"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"


class DdimFields(Clipping):
    beta_schedule: Betas = "linear"
    set_alpha_to_one: bool = True
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"


class PndmFields(SchedulerFields):
    beta_schedule: Betas = "linear"
    rescale_betas_zero_snr: Literal[False] = False
    skip_prk_steps: Literal[True]  # required, because diffusers' default is False
    set_alpha_to_one: bool = False
    prediction_type: NoSample = "epsilon"
    timestep_spacing: Spacing = "leading"


class EulerFields(SchedulerFields):
    beta_schedule: Betas = "linear"
    prediction_type: Prediction = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: Literal[False] | None = False
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    timestep_spacing: Spacing = "linspace"
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"


class EulerAncestralFields(SchedulerFields):
    beta_schedule: Betas = "linear"
    prediction_type: NoSample = "epsilon"
    timestep_spacing: Spacing = "linspace"


class DpmFields(SchedulerFields):
    beta_schedule: Betas = "linear"
    solver_order: Literal[1, 2] = 2
    prediction_type: Prediction = "epsilon"
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: float = 0.995  # only for thresholding
    sample_max_value: float = 1.0  # only for thresholding
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: Literal[False] | None = False
    use_lu_lambdas: Literal[False] | None = False
    use_flow_sigmas: Literal[False] | None = False
    use_dynamic_shifting: Literal[False] = False
    flow_shift: float | None = 1.0  # only for flow sigmas
    time_shift_type: str = "exponential"  # only for dynamic shifting
    sigma_min: Positive | None = None
    sigma_max: Positive | None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: Annotated[float, AllowInfNan(True)] = -math.inf
    variance_type: None = None
    timestep_spacing: Spacing = "linspace"


class LcmFields(Clipping):
    beta_start: Positive = 0.00085
    beta_end: Positive = 0.012
    beta_schedule: Betas = "scaled_linear"
    clip_sample: bool = False
    original_inference_steps: Annotated[int, Field(ge=1)] = 50
    set_alpha_to_one: bool = True  # has no effect unless a step goes below timestep 0
    prediction_type: Prediction = "epsilon"
    timestep_spacing: str = "leading"  # has no effect
    timestep_scaling: Positive = 10.0


Fields = TypeVar("Fields", bound=SchedulerFields)


def fields_of(model: type[Fields], config: JsonObject, path: Path) -> Fields:
    """Return the fields of a scheduler's file. Raises InputError, which names the first field that
    cannot be reproduced.
    """
    known = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and (name in model.model_fields or name not in OF_OTHERS)
    }
    try:
        return model(**known)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        kind = config.get("_class_name")
        if first["type"] == "extra_forbidden":
            what = f"{kind} has the unknown field {name!r}"
        elif first["type"] == "missing":
            what = f"the field {name!r} of {kind} is absent, and its default cannot be reproduced"
        else:
            what = (
                f"{name} of {kind} is {known[name]!r:.80}, which cannot be reproduced: "
                f"{first['msg'][0].lower()}{first['msg'][1:]}"
            )
        raise InputError(
            "E-BRING", what, path=path, hint="use a scheduler whose fields are at known values"
        ) from error
