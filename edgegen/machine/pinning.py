"""Keep threads on fixed cores while something is timed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[str]:
    """Keep the calling thread, and all that it starts, on the first `threads` of the cores that it
    may use while the block runs.

    Yields a text that says which cores, or why not.
    """
    try:
        before = os.sched_getaffinity(0)
        cores = sorted(before)[:threads]
        if len(cores) < threads:
            yield f"not pinned: {threads} threads, and {len(before)} cores that may be used"
            return
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError) as error:  # not on Linux, or in a sandbox that forbids it
        yield f"not pinned: this system does not allow it ({error})"
        return
    try:
        yield f"on core{'' if len(cores) == 1 else 's'} {', '.join(map(str, cores))}"
    finally:
        os.sched_setaffinity(0, before)
