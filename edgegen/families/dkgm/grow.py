"""A trained dkgm as it begins for larger images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import Grown
from .config import Config

VALUES = "bank.values"


def grown(config: Config, tensors: Mapping[str, Tensor], size: int) -> Grown:
    """The networks as they are; the bank's vectors upsampled, until training fills it from the photos."""
    made = replace(config, size=size)
    bytes_ = tensors[VALUES]
    vectors = bytes_.flatten(0, 1).reshape(-1, *config.vector).float()
    larger = F.interpolate(vectors, made.vector[1:], mode="bilinear", align_corners=False)
    values = larger.round().to(torch.uint8).reshape(*bytes_.shape[:2], -1)
    return Grown(made, {**tensors, VALUES: values})
