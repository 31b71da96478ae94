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
_here = threading.local()


def over_workers(
    work: Callable[[Part], Result], parts: Sequence[Part], workers: int
) -> Iterator[Result]:
    """work(part) of each part, in their order, up to `workers` at once.

    The first part that raises, in their order, raises here; none behind it is begun any more. Work
    that is itself part of such work runs on its own worker alone.
    """
    if min(workers, len(parts)) < 2 or getattr(_here, "is_worker", False):
        yield from map(work, parts)
        return
    begun: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(min(workers, len(parts)), initializer=_enter) as pool:
        try:
            for part in parts:
                begun.append(pool.submit(work, part))
                if len(begun) == AHEAD * workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def runs(first: int, last: int, length: int) -> list[range]:
    """first .. last - 1 in runs of `length`, of which the last may be shorter."""
    return [range(start, min(start + length, last)) for start in range(first, last, length)]


def _enter() -> None:
    _here.is_worker = True
