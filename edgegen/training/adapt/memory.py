"""The exact number of bytes of a run's weights, gradients and optimizer state, in linear layers and
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..update import Optimizer


@runtime_checkable
class Stored(Protocol):
    """A layer that stores more than its parameters, such as rounded weights with their scales."""

    def stored(self) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Footprint:
    """Numbers of bytes by use."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.weights + other.weights,
            self.gradients + other.gradients,
            self.optimizer + other.optimizer,
        )


@dataclass(frozen=True)
class StepMemory:
    """The memory of linear layers, including adapters on them, and of everything else."""

    linear: Footprint
    rest: Footprint


def memory(networks: nn.Module, optimizers: Iterable[Optimizer]) -> StepMemory:
    """Return the memory that is held between two steps; shared storage counts once.

    Gradients and optimizer states exist only after the first step.
    """
    optimizers, seen = tuple(optimizers), set[int]()
    linear, rest = Footprint(), Footprint()
    for module in networks.modules():
        params = tuple(module.parameters(recurse=False))
        footprint = Footprint(
            _bytes(
                chain(
                    module.stored() if isinstance(module, Stored) else params,
                    module.buffers(recurse=False),
                ),
                seen,
            ),
            _bytes((p.grad for p in params if p.grad is not None), seen),
            _bytes((t for p in params for o in optimizers for t in _state(o, p)), seen),
        )
        if isinstance(module, nn.Linear):
            linear += footprint
        else:
            rest += footprint
    return StepMemory(linear, rest)


def _state(optimizer: Optimizer, parameter: Tensor) -> Iterator[Tensor]:
    return (
        value for value in optimizer.state.get(parameter, {}).values() if isinstance(value, Tensor)
    )


def _bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Return the bytes of the storages that are not in `seen`, and add these to it."""
    total = 0
    for storage in (tensor.untyped_storage() for tensor in tensors):
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
