"""Several photo decoders at once; answers come in the order of the questions, so their number
changes nothing but the time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

from .photos import Decoded, Span, Want
from .worker import DecoderProcess

MOST = 8  # decoders; one feeds a GPU step of small images, more than the cores help nobody
T = TypeVar("T")
Place = tuple[str, Span | None]  # a file, and where in it the photo stands


def default_workers() -> int:
    """One a core that this process may use, at most MOST."""
    return min(MOST, len(os.sched_getaffinity(0)))


class Pool:
    """`workers` child processes that decode, each led by a thread; they start when first needed. A
    context manager.
    """

    def __init__(self, want: Want, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers, "decode")
        self._decoders = [DecoderProcess(want) for _ in range(workers)]
        self._idle: SimpleQueue[DecoderProcess] = SimpleQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self.ahead = 4 * workers

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            for decoder in self._decoders:
                decoder.close()  # else a slow photo would be waited for
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.__exit__(kind, error, trace)

    def run(self, task: Callable[[int], T], number: int) -> Future[T]:
        """task(number) in one of the threads, later."""
        return self._threads.submit(task, number)

    def decode(self, place: Place) -> Decoded:
        """The answer of the next decoder that is free."""
        decoder = self._idle.get()
        try:
            return decoder(*place)
        finally:
            self._idle.put(decoder)

    def map(self, places: Iterable[Place]) -> Iterator[Future[Decoded]]:
        """The answers in order, each of which may raise BadPhoto; a few are under way at any
        time.
        """
        waiting: deque[Future[Decoded]] = deque()
        for place in places:
            waiting.append(self._threads.submit(self.decode, place))
            if len(waiting) > self.ahead:
                yield waiting.popleft()
        yield from waiting
