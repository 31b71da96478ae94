"""Graphs whose last sampling steps run in FP32, because no later step can correct their errors.

The rounding error of a step looks like noise to the steps after it, and they remove it; the error
of the last step stays in the image. So a plan may run the last steps in the FP32 graph, and keep
more of all other steps in INT8 (docs/decisions/0014-last-steps.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .runtime import Placed, Session
from .spec import Array

TIME = "t"  # the input that tells a graph its timestep, (batch,), the same for all images


@dataclass(frozen=True)
class SessionWithFp32Steps:
    """One graph as two sessions: `full` runs timesteps below `fp32_below`, `int8` all others."""

    int8: Session
    full: Session
    fp32_below: float

    def __call__(self, **inputs: Array) -> Array:
        return (self.full if inputs[TIME].max() < self.fp32_below else self.int8)(**inputs)

    def placement(self) -> Mapping[str, int]:
        """Return the placement of the INT8 session, which runs most of the steps."""
        return self.int8.placement() if isinstance(self.int8, Placed) else {}


def with_fp32_steps(
    int8: Mapping[str, Session], full: Mapping[str, Session], below: Mapping[str, float]
) -> dict[str, Session]:
    """Return the sessions by graph; a graph in `below` runs in FP32 below that timestep."""
    return {
        graph: SessionWithFp32Steps(session, full[graph], below[graph])
        if graph in below
        else session
        for graph, session in int8.items()
    }


def int8_session(session: Session) -> Session:
    """Return the INT8 session of a graph, which may also have an FP32 one."""
    return session.int8 if isinstance(session, SessionWithFp32Steps) else session


def timesteps_by_graph(
    recorded: Mapping[str, Sequence[Mapping[str, Array]]],
) -> dict[str, list[float]]:
    """Return the distinct timesteps of each graph, from the inputs of its recorded calls.

    Only graphs with more than one timestep, in an order that never increases, are included. Calls
    may repeat a timestep: guidance calls a graph twice per step.
    """
    timesteps = {
        graph: [float(call[TIME].max()) for call in calls]
        for graph, calls in recorded.items()
        if all(TIME in call for call in calls)
    }
    return {
        graph: list(dict.fromkeys(times))
        for graph, times in timesteps.items()
        if len(set(times)) > 1 and all(before >= after for before, after in pairwise(times))
    }


def fp32_below(
    recorded: Mapping[str, Sequence[Mapping[str, Array]]], last: int
) -> dict[str, float]:
    """Return, by graph, the timestep that separates the last `last` steps from those before.

    Only graphs that are called on both sides of it are included. The result is empty if `last` is
    0, or is at least the number of steps. The steps are counted over all graphs, because a graph
    need not be called at every step.
    """
    by_graph = timesteps_by_graph(recorded)
    times = sorted({time for own in by_graph.values() for time in own}, reverse=True)
    if not 0 < last < len(times):
        return {}
    between = (times[-last - 1] + times[-last]) / 2
    return {graph: between for graph, own in by_graph.items() if own[-1] < between < own[0]}


def steps_in_fp32(last: int) -> str:
    """Return a phrase that says which of a sampler's steps run in FP32."""
    return "the last runs in FP32" if last == 1 else f"the last {last} run in FP32"
