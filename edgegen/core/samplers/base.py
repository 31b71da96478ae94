"""The interface of samplers: loops over named graphs that use only operators, so that they work
with both numpy and torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from ..conditions import NULL
from ..spec import Values

Call = Mapping[str, Callable[..., Values]]  # the function that executes each graph, by name
Draw = Callable[[str], Values]  # stream name -> standard normal noise of the latent's shape


class Sampler(Protocol):
    """A loop over graphs, as frozen data.

    Called with: call, the graphs by name; x, the start noise; condition, the graphs' other inputs;
    draw, a function that gives fresh noise.
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
    """A sampler that runs a graph at only some of its timesteps."""

    def asks(self, graph: str) -> tuple[float, ...]: ...


@runtime_checkable
class Endable(Protocol):
    """A sampler with its own way to end before its last step."""

    def ended_after(self, steps: int) -> Self: ...


def asked(sampler: Sampler, graph: str) -> tuple[float, ...]:
    """Return the timesteps at which a sampler runs a graph, all of which calibration must cover."""
    return sampler.asks(graph) if isinstance(sampler, Choosy) else sampler.timesteps


def told(timestep: float) -> float:
    """Return a timestep rounded to float32, as a graph receives it."""
    return float(np.float32(timestep))


def branches(condition: Mapping[str, Values]) -> tuple[dict[str, Values], dict[str, Values]]:
    """Split a condition into the inputs of the conditional and of the unconditional branch.

    The second holds the values of null_INPUT under the name INPUT, because no graph has an input
    with the prefix.
    """
    given = {name: value for name, value in condition.items() if not name.startswith(NULL)}
    null = {name.removeprefix(NULL): condition[name] for name in condition.keys() - given.keys()}
    return given, null


# the timesteps of a sampler without a loop, and of a graph without an input "t"
UNTIMED = (0,)

# fields of samplers that hold one number per step
_STEPPED = ("timesteps", "signal", "gates", "levels")
# Metadata of a field that older manifests lack; it is left out if it has its default.
LATER = {"later": True}
S = TypeVar("S", bound=Sampler)


def stopped(sampler: S, steps: int) -> S:
    """Return the sampler that ends after its first `steps` timesteps, with the clean image it then
    has. ValueError if it has fewer steps.
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
