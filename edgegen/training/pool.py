"""A pool of photo decoders. Results come in the order of the requests, so the number of decoders
affects only the time.
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

MOST = 8  # most decoder processes
T = TypeVar("T")
Place = tuple[str, Span | None]  # a file, and where in it the photo stands


def default_workers() -> int:
    """Return the number of cores that this process may use, at most MOST."""
    return min(MOST, len(os.sched_getaffinity(0)))


class Pool:
    """A context manager for `workers` decoder processes, each with a thread.

    The processes start when they are first needed.
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
                decoder.close()  # do not wait for a slow photo
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.__exit__(kind, error, trace)

    def run(self, task: Callable[[int], T], number: int) -> Future[T]:
        """Run task(number) in one of the threads, and return its future."""
        return self._threads.submit(task, number)

    def decode(self, place: Place) -> Decoded:
        """Decode a photo with the next free decoder."""
        decoder = self._idle.get()
        try:
            return decoder(*place)
        finally:
            self._idle.put(decoder)

    def map(self, places: Iterable[Place]) -> Iterator[Future[Decoded]]:
        """Yield futures of the decoded photos in order, each of which may raise BadPhoto.

        Only a few photos are in progress at a time.
        """
        waiting: deque[Future[Decoded]] = deque()
        for place in places:
            waiting.append(self._threads.submit(self.decode, place))
            if len(waiting) > self.ahead:
                yield waiting.popleft()
        yield from waiting
