"""Graphs whose last steps run in full precision: what a sampler does last, nothing behind it mends.

A step's rounding is noise that the steps after it take for noise and remove; the last step's stays
in the image. So a plan may leave the last steps to the FP32 graph, and keep more of all others in
INT8 (docs/decisions/0014-last-steps.md).
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
    """One graph as two sessions: `full` answers below the timestep `fp32_below`, `int8` at all
    others.
    """

    int8: Session
    full: Session
    fp32_below: float

    def __call__(self, **inputs: Array) -> Array:
        return (self.full if inputs[TIME].max() < self.fp32_below else self.int8)(**inputs)

    def placement(self) -> Mapping[str, int]:
        """Of what runs most."""
        return self.int8.placement() if isinstance(self.int8, Placed) else {}


def with_fp32_steps(
    int8: Mapping[str, Session], full: Mapping[str, Session], below: Mapping[str, float]
) -> dict[str, Session]:
    """The sessions by graph; those that `below` gives a timestep answer in FP32 below it."""
    return {
        graph: SessionWithFp32Steps(session, full[graph], below[graph])
        if graph in below
        else session
        for graph, session in int8.items()
    }


def int8_session(session: Session) -> Session:
    """The INT8 side of a graph."""
    return session.int8 if isinstance(session, SessionWithFp32Steps) else session


def timesteps_by_graph(
    recorded: Mapping[str, Sequence[Mapping[str, Array]]],
) -> dict[str, list[float]]:
    """graph -> its timesteps, each once, of graphs that are told more than one and never one that
    is larger than the last. A step may ask twice (guidance), and two steps may have one timestep.
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
    """graph -> the timestep between the sampler's last `last` steps and those before, of graphs
    that are asked on both sides. Empty for 0, and where `last` is all steps or more.

    All graphs are told the same times; one that is not asked at every step may have none of the
    last.
    """
    by_graph = timesteps_by_graph(recorded)
    times = sorted({time for own in by_graph.values() for time in own}, reverse=True)
    if not 0 < last < len(times):
        return {}
    between = (times[-last - 1] + times[-last]) / 2
    return {graph: between for graph, own in by_graph.items() if own[-1] < between < own[0]}


def steps_in_fp32(last: int) -> str:
    """Which of a sampler's steps run in full precision, for people."""
    return "the last runs in FP32" if last == 1 else f"the last {last} run in FP32"
