"""Exponential averages of networks over training; the averages are what ships."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_copy(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network that averages the network's weights and buffers at each update."""
    average, rule = AveragedModel(network, use_buffers=True), _average(decay)
    # The count that torch passes lies on the GPU, and reading it would wait for the step.
    average.multi_avg_fn = lambda old, new, _: rule(old, new, int(average.n_averaged))
    return average


def _average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Return the update of an exponential average whose decay is at most (1 + n) / (10 + n), so
    that a short run does not keep its random start.
    """

    def update(averages: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        if averages[0].is_floating_point():  # torch passes tensors of one type
            torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averages, current)

    return torch.no_grad()(update)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights and buffers of one network into another of the same shape."""
    pairs = zip(
        chain(source.parameters(), source.buffers()),
        chain(target.parameters(), target.buffers()),
        strict=True,
    )
    for old, new in pairs:
        new.copy_(old)
