"""One optimizer step of one objective, which changes nothing if a loss or gradient is not finite.

That is decided on the device, so that the host does not wait: it reads the losses of all objectives
at once at the end of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.graph import Batch, Objective
from .processes import World


class Buffers:
    """The buffers of networks, such as the statistics of batch norms, read and written as one
    tensor per type.

    That takes a few GPU kernels instead of some for each buffer. Non-persistent buffers, which are
    constants, are left out.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._places = [
            (module._buffers, name)
            for network in networks
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set
        ]

    def read(self) -> dict[torch.dtype, Tensor]:
        """Return a flat copy of all buffers by type."""
        return {
            dtype: torch.cat([t.detach().flatten() for t in tensors])
            for dtype, tensors in self._tensors().items()
        }

    def write(self, flat: dict[torch.dtype, Tensor]) -> None:
        for dtype, tensors in self._tensors().items():
            parts = torch.split(flat[dtype], [t.numel() for t in tensors])
            torch._foreach_copy_(
                tensors, [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
            )

    def _tensors(self) -> dict[torch.dtype, list[Tensor]]:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for held, name in self._places:
            tensor = held[name]
            assert tensor is not None
            by_type.setdefault(tensor.dtype, []).append(tensor)
        return by_type


OptimizerState = dict[str, Any]  # torch's form: numbers, tensors and dictionaries of them


class Optimizer(Protocol):
    """What the loop and checkpoints need of an optimizer.

    Its step changes nothing if `found_inf` () is not 0.
    """

    param_groups: list[OptimizerState]
    state: Any  # by parameter
    found_inf: Tensor

    def step(self) -> object: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def state_dict(self) -> OptimizerState: ...
    def load_state_dict(self, state_dict: OptimizerState) -> None: ...
    # its state before the first step: names, shapes and types
    def blank(self, parameter: Tensor) -> dict[str, Tensor]: ...


class Adam(torch.optim.Adam):
    """torch's fused Adam, which changes nothing if `found_inf` is set, and is 1.5 x faster than
    foreach on a CPU.
    """

    found_inf: Tensor

    def blank(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def optimizer_of(objective: Objective, eight_bit: bool = False) -> Optimizer:
    """Return an Adam optimizer with an FP32 state, or with `eight_bit` an 8-bit state.

    RuntimeMissing for 8 bits if bitsandbytes is not installed.
    """
    if eight_bit:
        from .adapt.adam8bit import Adam8bit

        return Adam8bit(objective.params, objective.betas)
    return Adam(objective.params, lr=0.0, betas=objective.betas, fused=True)


def update(
    objective: Objective,
    optimizer: Optimizer,
    batch: Batch,
    rate: float,
    buffers: Buffers,
    precision: str,
    world: World,
) -> Tensor:
    """Take one step with that rate, and return the loss () on the device, as the mean over all
    processes; NaN if nothing was changed.
    """
    before = buffers.read()
    optimizer.zero_grad(set_to_none=True)
    with (
        torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16"),
        world.together(batch),
    ):
        loss = objective.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    loss, after = loss.detach().float().clone(), buffers.read()
    world.average([loss, *_gradients(objective)])
    world.average_changes(before, after)
    norm = nn.utils.clip_grad_norm_(objective.params, objective.clip, foreach=True)
    good = torch.isfinite(loss) & torch.isfinite(norm)
    optimizer.found_inf = (~good).float()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    buffers.write(
        {dtype: torch.where(good, tensor, before[dtype]) for dtype, tensor in after.items()}
    )
    return torch.where(good, loss, math.nan)


def _gradients(objective: Objective) -> list[Tensor]:
    """Return the gradients of the parameters that have one, in the memory layout of the parameter,
    because the fused step pairs their elements in memory.
    """
    gradients = []
    for p in objective.params:
        if p.grad is not None:
            if p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
            gradients.append(p.grad)
    return gradients
