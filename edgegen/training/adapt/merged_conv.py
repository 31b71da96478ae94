"""Convolutions whose pair is added to the weight before they run, instead of running beside it.

The same function and the same gradients for the pair. Two more convolutions an adapted one, over
all positions, cost more than the gradient of its whole weight, which is there for a moment only:
benchmarks/finetune.py --speed says how much.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn


class _Joined(nn.Module):
    """Mixed into PEFT's layer: it stays one for PEFT, under the same names."""

    def effective_weight(self) -> Tensor:
        """The base's weight with the pair in it: (out, in, k, k)."""
        layer: Any = self
        (name,) = layer.active_adapters
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        weight: Tensor = layer.base_layer.weight
        return weight + (b.flatten(1) @ a.flatten(1)).view_as(weight) * layer.scaling[name]

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        base: Any = self.base_layer
        return base._conv_forward(x, self.effective_weight(), base.bias)


def join(network: nn.Module) -> int:
    """Let every convolution that PEFT has given a pair run so, in place; how many there were."""
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
