"""Torch on one thread while a block runs, whichever threads are in such blocks at once. (torch)"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_open = 0  # blocks that run now
_before = 1  # threads that torch had when the first of them began


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The last block that ends gives torch its threads back, for its own thread and new ones."""
    global _open, _before
    with _lock:
        if not _open:
            _before = torch.get_num_threads()
        _open += 1
        torch.set_num_threads(1)  # in each thread: what computes convolutions keeps one of its own
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open:
                torch.set_num_threads(_before)
