"""What every sampler is: a loop over named graphs, made of operators only, so that numpy and torch both pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

Call = Mapping[str, Callable[..., Any]]  # graph name -> whoever executes it
Draw = Callable[[str], Any]  # stream name -> standard normal noise of the latent's shape


class Sampler(Protocol):
    """Frozen data; call: executes graphs; x: start noise; condition: what else each graph takes; draw: fresh noise."""

    @property
    def kind(self) -> str: ...
    @property
    def timesteps(self) -> tuple[int, ...]: ...
    def __call__(self, call: Call, x: Any, condition: Mapping[str, Any], draw: Draw) -> Any: ...


@runtime_checkable
class Choosy(Protocol):
    """A sampler that runs some graph at some of its timesteps only."""

    def asks(self, graph: str) -> tuple[int, ...]: ...


def asked(sampler: Sampler, graph: str) -> tuple[int, ...]:
    """The timesteps at which a sampler runs a graph: what a calibration must have seen of it."""
    return sampler.asks(graph) if isinstance(sampler, Choosy) else sampler.timesteps


UNTIMED = (0,)  # the timesteps of what has no time: a sampler without a loop, a graph without an input "t"
