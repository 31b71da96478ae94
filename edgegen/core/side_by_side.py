"""Runs the parts of one piece of work in parallel, with the same results in the same order for any
number of workers.

Workers are threads, because ONNX Runtime, OpenVINO and torch release the interpreter lock while
they compute. Each part runs on one thread, so its sums and their order do not depend on the number
of workers, and no thread spins while it waits for others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
AHEAD = 2  # parts per worker that are begun and not yet taken; more would need more memory
_here = threading.local()  # a worker's `over` event, set when nobody waits for its result any more


class GivenUp(Exception):
    """Ends the work of a worker whose result nobody waits for any more."""


def over_workers(
    work: Callable[[Part], Result], parts: Sequence[Part], workers: int
) -> Iterator[Result]:
    """Yield work(part) for each part in order, with up to `workers` parts at once.

    The first part in order that raises, raises here, and no further part is begun. Nested calls run
    on the worker that makes them, and stop between two parts when the outer call ends early, so an
    interruption waits for one part and not for all.
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
    """Split first .. last - 1 into ranges of `length`, of which the last may be shorter."""
    return [range(start, min(start + length, last)) for start in range(first, last, length)]


def _enter(over: threading.Event) -> None:
    _here.over = over
