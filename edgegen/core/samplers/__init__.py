"""Samplers: loops over named graphs, stored as data in a bundle's manifest.

The loops use only operators, so the same code runs on numpy arrays on a device and on torch tensors
during training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields

from ...errors import TrustError
from ..files import JsonObject
from .base import LATER, UNTIMED, Call, Draw, Sampler, asked, branches, stopped, told
from .bridge import BridgeSampler, approximation_levels, power_levels
from .cascade import PATHS, CascadeSampler, mean_gates
from .latent import RENOISE, ConsistencySampler, LatentDdimSampler, Renoise, boundary
from .multistep import MultistepSampler
from .schedule import alphas_bar, clean_image, noise_of, trailing
from .second_order import DIFFUSION_SOLVERS, DiffusionSolver, lookahead, signal_lookahead
from .single import SingleSampler

__all__ = [
    "DIFFUSION_SOLVERS",
    "PATHS",
    "RENOISE",
    "SAMPLERS",
    "UNTIMED",
    "BridgeSampler",
    "Call",
    "CascadeSampler",
    "ConsistencySampler",
    "DiffusionSolver",
    "Draw",
    "LatentDdimSampler",
    "MultistepSampler",
    "Renoise",
    "Sampler",
    "SingleSampler",
    "alphas_bar",
    "approximation_levels",
    "asked",
    "boundary",
    "branches",
    "clean_image",
    "lookahead",
    "mean_gates",
    "noise_of",
    "power_levels",
    "sampler_from_json",
    "sampler_to_json",
    "signal_lookahead",
    "stopped",
    "told",
    "trailing",
]

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "bridge": BridgeSampler,
    "cascade": CascadeSampler,
    "consistency": ConsistencySampler,
    "latent-ddim": LatentDdimSampler,
    "multistep": MultistepSampler,
    "single": SingleSampler,
}


def sampler_to_json(sampler: Sampler) -> JsonObject:
    """Return the entry of a sampler in a manifest."""
    left_out = {
        field.name
        for field in fields(sampler)  # type: ignore[arg-type]
        if field.metadata == LATER and getattr(sampler, field.name) == field.default
    }
    whole: JsonObject = asdict(sampler)  # type: ignore[call-overload]
    return {name: value for name, value in whole.items() if name not in left_out}


def sampler_from_json(data: JsonObject) -> Sampler:
    """Make a sampler from its entry in a manifest. TrustError says what is wrong with it."""
    if not isinstance(data, Mapping):
        raise TrustError(
            "E-MANIFEST", f"the sampler in the manifest is a {type(data).__name__}, not an object"
        )
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return SAMPLERS[data["kind"]](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError(
            "E-MANIFEST", f"the sampler in the manifest cannot be used: {error}"
        ) from error
