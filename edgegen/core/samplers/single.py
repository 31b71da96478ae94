"""The sampler of a generator that needs no loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..spec import Values
from .base import UNTIMED, Call, Draw


@dataclass(frozen=True)
class SingleSampler:
    """A sampler that calls each graph once, on the output of the one before.

    The first graph also takes the condition.
    """

    graphs: tuple[str, ...] = ("generator",)
    kind: str = "single"

    def __post_init__(self) -> None:
        if not (
            isinstance(self.graphs, tuple)
            and self.graphs
            and all(isinstance(g, str) for g in self.graphs)
        ):
            raise ValueError(f"graphs must be one name or more, got {self.graphs!r}")
        if self.kind != "single":
            raise ValueError(f"unknown kind {self.kind!r}")

    @property
    def timesteps(self) -> tuple[int, ...]:
        return UNTIMED

    def __call__(
        self,
        call: Call[Values],
        x: Values,
        condition: Mapping[str, Values],
        draw: Draw[Values],
    ) -> Values:
        """x (b, ...) standard normal -> images (b, c, h, w) in [-1, 1]."""
        first, *rest = self.graphs
        x = call[first](x=x, **condition)
        for graph in rest:
            x = call[graph](x=x)
        return x.clip(-1, 1)
