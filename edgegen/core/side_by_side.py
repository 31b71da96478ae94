"""Parts of one piece of work, side by side: the same results in the same order for any number of
workers.

Workers are threads: ONNX Runtime, OpenVINO and torch leave the interpreter while they compute. Each
part is computed on one thread, so that neither the sums in it nor their order depend on how many
workers there are, and nobody spins while waiting for others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
AHEAD = 2  # parts a worker, begun and not yet taken: what memory grows with
_here = threading.local()  # of a worker: `over`, which is set when nobody waits for it any more


class GivenUp(Exception):
    """Ends work in a worker that nobody waits for."""


def over_workers(
    work: Callable[[Part], Result], parts: Sequence[Part], workers: int
) -> Iterator[Result]:
    """work(part) of each part, in their order, up to `workers` at once.

    The first part that raises, in their order, raises here; none behind it is begun any more. Work
    that is itself part of such work runs on its own worker alone, and is given up between two of
    its parts when the whole ends early: who interrupts it waits for one of them, not for all.
    """
    outer: threading.Event | None = getattr(_here, "over", None)
    if min(workers, len(parts)) < 2 or outer is not None:
        for part in parts:
            if outer is not None and outer.is_set():
                raise GivenUp
            yield work(part)
        return
    begun: deque[Future[Result]] = deque()
    over = threading.Event()
    with ThreadPoolExecutor(min(workers, len(parts)), initializer=_enter, initargs=(over,)) as pool:
        try:
            for part in parts:
                begun.append(pool.submit(work, part))
                if len(begun) == AHEAD * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            over.set()
            for future in begun:
                future.cancel()


def runs(first: int, last: int, length: int) -> list[range]:
    """first .. last - 1 in runs of `length`, of which the last may be shorter."""
    return [range(start, min(start + length, last)) for start in range(first, last, length)]


def _enter(over: threading.Event) -> None:
    _here.over = over
