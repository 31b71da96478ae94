"""What every sampler is: a loop over named graphs, made of operators only, so that numpy and torch
both pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from ..conditions import NULL
from ..spec import Values

Call = Mapping[str, Callable[..., Values]]  # graph name -> whoever executes it
Draw = Callable[[str], Values]  # stream name -> standard normal noise of the latent's shape


class Sampler(Protocol):
    """Frozen data; call: executes graphs; x: start noise; condition: what else each graph takes;
    draw: fresh noise.
    """

    @property
    def kind(self) -> str: ...
    @property
    def timesteps(self) -> tuple[float, ...]: ...
    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values: ...


@runtime_checkable
class Choosy(Protocol):
    """A sampler that runs some graph at some of its timesteps only."""

    def asks(self, graph: str) -> tuple[float, ...]: ...


@runtime_checkable
class Endable(Protocol):
    """A sampler that knows itself how it ends before its last step."""

    def ended_after(self, steps: int) -> Self: ...


def asked(sampler: Sampler, graph: str) -> tuple[float, ...]:
    """The timesteps at which a sampler runs a graph: what a calibration must have seen of it."""
    return sampler.asks(graph) if isinstance(sampler, Choosy) else sampler.timesteps


def told(timestep: float) -> float:
    """What a graph is told of a timestep, which goes in as float32."""
    return float(np.float32(timestep))


def branches(condition: Mapping[str, Values]) -> tuple[dict[str, Values], dict[str, Values]]:
    """By input, what a graph is given, and what it is given instead where nothing is asked for: the
    twins null_INPUT, which no graph takes by that name.
    """
    given = {name: value for name, value in condition.items() if not name.startswith(NULL)}
    null = {name.removeprefix(NULL): condition[name] for name in condition.keys() - given.keys()}
    return given, null


# the timesteps of what has no time: a sampler without a loop, a graph without an input "t"
UNTIMED = (0,)

# fields of samplers that hold a number a step
_STEPPED = ("timesteps", "signal", "gates", "levels")
# of a field that manifests were written without at first: left out where it has its default
LATER = {"later": True}
S = TypeVar("S", bound=Sampler)


def stopped(sampler: S, steps: int) -> S:
    """The sampler that ends after its first `steps` timesteps with the clean image it then has;
    ValueError if it cannot.
    """
    count = len(sampler.timesteps)
    if not 1 <= steps <= count:
        raise ValueError(f"the sampler has {count} steps, got {steps}")
    if isinstance(sampler, Endable):
        return sampler.ended_after(steps)
    names = [f.name for f in fields(sampler)]  # type: ignore[arg-type]
    return replace(
        sampler, **{name: getattr(sampler, name)[:steps] for name in names if name in _STEPPED}
    )  # type: ignore[type-var]
