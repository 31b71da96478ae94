"""A trained dkgm as it begins for larger images: networks with larger patches, the bank upsampled
until it is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import Grown
from ..unet import factor_of, stretched
from .config import DkgmConfig

VALUES = "bank.values"


def grown(config: DkgmConfig, tensors: Mapping[str, Tensor], size: int) -> Grown:
    """ValueError for a size that is not a whole number of times the config's, or too large for the
    cells of its codes.

    The kernel's draws are wider by as much, so that their means over a pixel of before are what
    they were: stage 1 sees what it has learned to see. Codes stay as they are, each for more
    pixels.
    """
    factor, latent = factor_of(config.size, size), config.mode == "latent"
    larger = replace(
        config,
        size=size,
        stretch=factor * config.stretch,
        coarse=replace(config.coarse, patch=factor * config.coarse.patch),
        debias=replace(config.debias, patch=factor * config.debias.patch),
        **{"code_cell": factor * config.code_cell}
        if latent
        else {"bandwidth": factor * config.bandwidth},
    )
    first = {
        "dae": ("coarse.trunk.stem", "coarse.trunk.head", config.coarse.patch),
        "latent": ("encoder.stem", "coarse.head", config.code_cell),
    }
    places = [
        ("debias.trunk.stem", "debias.trunk.head", config.debias.patch),
        *(first[m] for m in (config.mode,) if m in first),
    ]
    out, values = dict(tensors), tensors[VALUES]
    for enter, leave, patch in places:
        out = stretched(out, f"{enter}.conv", leave, patch, factor)
    if config.mode == "dae":  # it divides by the deviation of what it reads
        out["coarse.trunk.stem.conv.weight"] *= (
            (1 + larger.bandwidth**2) / (1 + config.bandwidth**2)
        ) ** 0.5
    vectors = F.interpolate(
        values.reshape(-1, *config.vector).float(),
        larger.vector[1:],
        mode="bilinear",
        align_corners=False,
    )
    out[VALUES] = vectors.round().to(torch.uint8).reshape(*values.shape[:2], -1)
    return Grown(larger, out, tuple(name for place in places for name in place[:2]))
