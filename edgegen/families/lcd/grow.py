"""Growing a trained lcd for larger images: the latents stay, and each covers more pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .. import Grown
from ..unet import factor_of, stretched
from .config import LcdConfig

ENTER, LEAVE = "autoencoder.encoder.stem", "autoencoder.decoder.head"


def grown(config: LcdConfig, tensors: Mapping[str, Tensor], size: int) -> Grown:
    """Return the generator as it begins at `size`, a multiple of the config's; else ValueError."""
    factor, coder = factor_of(config.size, size), config.coder
    out = stretched(tensors, f"{ENTER}.conv", LEAVE, coder.patch, factor)
    return Grown(
        replace(config, size=size, coder=replace(coder, patch=factor * coder.patch)),
        out,
        (ENTER, LEAVE),
    )
