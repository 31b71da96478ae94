"""The start of a bundle's sampler, written to and read from its manifest and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .conditions import conditions_from_json, labels
from .files import JsonObject, put
from .latent import Latent
from .manifest import ConditionedStart, Start
from .rehearsal import bounded_start
from .spec import TensorSpec

ARRAYS = "conditions.safetensors"


def write_start(latent: Latent, folder: Path) -> JsonObject:
    """Return a manifest's `start`, and write the conditions' arrays, if any, into `folder`.

    It has the form of schema 1 if that can express the latent.
    """
    shape = list(latent.noise.shape[1:])
    if latent.conditions == labels(latent.classes):
        return {"shape": shape, "classes": latent.classes}
    arrays = {name: value for one in latent.conditions for name, value in one.arrays().items()}
    if arrays:
        from safetensors.numpy import save

        put(folder / ARRAYS, save({k: np.asarray(v, order="C") for k, v in arrays.items()}))
    return {
        "shape": shape,
        "conditions": [one.to_json() for one in latent.conditions],
        "arrays": ARRAYS if arrays else None,
        "text": None,
    }


def read_start(start: Start | ConditionedStart, read: Callable[[str], bytes]) -> Latent:
    """Return the latent that a manifest's `start` describes.

    read: returns the bytes of a listed file. ValueError for an invalid or too large start.
    """
    if isinstance(start, Start):
        bounded_start(start.shape, start.classes)
        conditions = labels(start.classes)
    else:
        bounded_start(start.shape, 0)
        arrays = {} if start.arrays is None else _parsed(read(start.arrays))
        conditions = conditions_from_json(start.conditions, arrays)
    latent = Latent(TensorSpec("x", ("batch", *start.shape)), conditions)
    if isinstance(start, ConditionedStart) and start.text is not None and latent.prompts is None:
        raise ValueError("start.text encodes prompts, and the sampler is given none")
    return latent


def _parsed(data: bytes) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"start.arrays is no usable safetensors file: {error}") from error
