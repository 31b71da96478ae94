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
class Stepped:
    """One graph as two sessions: `full` answers below the timestep `until`, `int8` at all
    others.
    """

    int8: Session
    full: Session
    until: float

    def __call__(self, **inputs: Array) -> Array:
        return (self.full if inputs[TIME].max() < self.until else self.int8)(**inputs)

    def placement(self) -> Mapping[str, int]:
        """Of what runs most."""
        return self.int8.placement() if isinstance(self.int8, Placed) else {}


def stepped(
    int8: Mapping[str, Session], full: Mapping[str, Session], until: Mapping[str, float]
) -> dict[str, Session]:
    """The sessions by graph, those of `until` as two."""
    return {
        graph: Stepped(session, full[graph], until[graph]) if graph in until else session
        for graph, session in int8.items()
    }


def rounded(session: Session) -> Session:
    """The INT8 side of a graph."""
    return session.int8 if isinstance(session, Stepped) else session


def timed(recorded: Mapping[str, Sequence[Mapping[str, Array]]]) -> dict[str, list[float]]:
    """graph -> its timesteps, call by call, of graphs that are told a smaller one each time, more
    than once.
    """
    found = {
        graph: [float(call[TIME].max()) for call in calls]
        for graph, calls in recorded.items()
        if all(TIME in call for call in calls)
    }
    return {
        graph: times
        for graph, times in found.items()
        if len(times) > 1 and all(before > after for before, after in pairwise(times))
    }


def until(recorded: Mapping[str, Sequence[Mapping[str, Array]]], last: int) -> dict[str, float]:
    """graph -> the timestep between the sampler's last `last` steps and those before; of graphs
    that are asked on both sides.

    None for 0. All graphs are told the same times; one that is not asked at every step may have
    none of the last.
    """
    several = timed(recorded)
    times = sorted({time for one in several.values() for time in one}, reverse=True)
    if not 0 < last < len(times):
        return {}
    between = (times[-last - 1] + times[-last]) / 2
    return {graph: between for graph, one in several.items() if one[-1] < between < one[0]}


def steps_in_fp32(last: int) -> str:
    """Which of a sampler's steps run in full precision, for people."""
    return "the last runs in FP32" if last == 1 else f"the last {last} run in FP32"
