"""Generators with adapters on a rounded base that several tests share, and what needs the extra
`adapt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from edgegen.core.graph import Objective
from edgegen.families import Recipe, family
from edgegen.training.adapt import Kind
from edgegen.training.adapt.bases import Base, quantize
from edgegen.training.adapt.library import importing

PEFT = pytest.mark.skipif(
    find_spec("peft") is None, reason="adapters are trained by peft, which is not installed"
)
MISSING = [name for name in ("bitsandbytes", "peft") if find_spec(name) is None]
ADAPT = pytest.mark.skipif(
    bool(MISSING),
    reason=f'{" and ".join(MISSING)} not installed (extra "adapt"): no base was rounded',
)


@dataclass
class Adapted:
    """A family's tiny generator that moves its adapters only, on every linear layer and
    convolution.
    """

    generator: Any
    base: Base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.generator, name)

    def objectives(self) -> Iterable[Objective]:
        for objective in self.generator.objectives():
            if moved := tuple(p for p in objective.params if p.requires_grad):
                yield replace(objective, params=moved)


def adapted(name: str, kind: Kind, seed: int = 0) -> tuple[Adapted, Recipe]:
    """On random weights everywhere, adapters too, so that nothing is trivially equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = replace(family(name).recipes["tiny"](), batch=8, warmup=2)
        made = family(name).build(recipe.config)
        shake(made.networks)
        base = quantize(made.networks, kind)
        inject(made.networks, 4)
    return Adapted(made, base), recipe


def shake(network: nn.Module) -> None:
    """Layers that start at zero are random too."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def inject(network: nn.Module, rank: int) -> None:
    """Random adapters of peft on every linear layer and plain convolution."""
    with importing("peft"):
        from peft import LoraConfig, inject_adapter_in_model
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    inject_adapter_in_model(
        LoraConfig(r=rank, target_modules=names, init_lora_weights=False), network
    )
