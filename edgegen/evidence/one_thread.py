"""Keep torch on one thread while a block runs, whichever threads run such blocks at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_open = 0  # number of blocks that run now
_before = 1  # number of threads that torch had when the first of them began


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with torch on one thread; the last block to end restores the number of
    threads.
    """
    global _open, _before
    with _lock:
        if not _open:
            _before = torch.get_num_threads()
        _open += 1
        # set in each thread, because the library behind convolutions keeps a number for each
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                torch.set_num_threads(_before)
