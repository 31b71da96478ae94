"""Adapted convolutions whose pair is added to the weight, instead of running beside it.

The function and the pair's gradients are the same. Two further convolutions over all positions
would cost more than the gradient of the whole weight, which exists only for a moment; benchmarks/
finetune.py --speed measures this.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn


class _Joined(nn.Module):
    """A mix-in for PEFT's layer, which keeps its type for PEFT and its names."""

    def effective_weight(self) -> Tensor:
        """Return the base's weight (out, in, k, k) with the pair added."""
        layer: Any = self
        (name,) = layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        weight: Tensor = layer.base_layer.weight
        return weight + (b.flatten(1) @ a.flatten(1)).view_as(weight) * layer.scaling[name]

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        base: Any = self.base_layer
        return base._conv_forward(x, self.effective_weight(), base.bias)


def join(network: nn.Module) -> int:
    """Change every convolution with a pair in place, and return how many there are."""
    from peft.tuners.lora import Conv2d

    convolutions = [
        module
        for module in network.modules()
        if type(module) is Conv2d and type(module.base_layer) is nn.Conv2d
    ]
    for module in convolutions:
        module.__class__ = _joined(Conv2d)
    return len(convolutions)


@cache
def _joined(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Joined, kind), {})
