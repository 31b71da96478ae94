"""Growing a trained dkgm for larger images: the networks get larger patches, and the bank's vectors
are upsampled until the bank is filled again.
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
    """Return the generator as it begins at `size`.

    The bandwidth grows by the same factor, so that the draws' means over one former pixel keep
    their distribution and stage 1 sees what it was trained on. In mode "latent" the codes stay, and
    each covers more pixels. ValueError for a size that is not a multiple of the config's, or too
    large for the cells of its codes.
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
    if config.mode == "dae":  # the denoiser divides its input by sqrt(1 + bandwidth^2)
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
