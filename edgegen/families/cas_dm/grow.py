"""Growing a trained cas-dm for larger images: both networks get larger patches, and all layers
between the first and the last stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .. import Grown
from ..unet import factor_of, stretched
from .config import CasDmConfig


def grown(config: CasDmConfig, tensors: Mapping[str, Tensor], size: int) -> Grown:
    """Return the generator as it begins at `size`, a multiple of the config's; else ValueError."""
    factor, nets = factor_of(config.size, size), {"theta": config.theta, "phi": config.phi}
    for name, net in nets.items():
        tensors = stretched(
            tensors, f"{name}.trunk.stem.conv", f"{name}.trunk.head", net.patch, factor
        )
    theta, phi = (replace(net, patch=factor * net.patch) for net in nets.values())
    new = tuple(f"{name}.trunk.{part}" for name in nets for part in ("stem", "head"))
    return Grown(
        replace(config, size=size, theta=theta, phi=phi, stretch=factor * config.stretch),
        tensors,
        new,
    )
