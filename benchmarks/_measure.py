"""Measure what several benchmarks measure alike: calls in turn, processes of their own,
intervals.

It imports nothing that would show in the peak memory of a small process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgegen.core.verdict import Interval


@dataclass(frozen=True)
class Spent:
    """Hold seconds of wall time and of this process's CPU time."""

    wall: float
    cpu: float


def in_turns(
    calls: Mapping[str, Callable[[int], object]],
    rounds: int,
    warm_up: int = 0,
    is_twice: bool = False,
) -> dict[str, list[Spent]]:
    """Return the time of each call, round by round, so that a drift of the machine meets
    all alike.

    A call receives the number of its round. The rounds of `warm_up` come first and are not timed.
    With `is_twice`, an untimed call comes right before each timed one, which then finds its own
    data in the caches, as in use.
    """
    spent: dict[str, list[Spent]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            if is_twice:
                call(turn)
            wall, cpu = time.perf_counter(), time.process_time()
            call(turn)
            found = Spent(time.perf_counter() - wall, time.process_time() - cpu)
            if turn >= warm_up:
                spent[name].append(found)
    return spent


def median(spent: Sequence[Spent]) -> Spent:
    """Return the median of each clock by itself."""
    return Spent(
        statistics.median(one.wall for one in spent), statistics.median(one.cpu for one in spent)
    )


def said_by(*words: str) -> str:
    """Return the last line that this Python prints in a process of its own, started with these
    words.
    """
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def columns(name: str, interval: Interval) -> dict[str, float]:
    """Return an interval as three columns of a row."""
    return {name: interval.value, f"{name}, low": interval.low, f"{name}, high": interval.high}


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high
