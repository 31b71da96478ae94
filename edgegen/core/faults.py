"""Named moments of writing at which a test can inject a fault: a kill, a full disk, a folder that
vanishes.

In a user's process there is no listener, and no environment variable can set one, so `hit` only
compares a variable with None. Tests go through POINTS, so that no new point is left untested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

POINTS = {
    "lock.taken": "the lock of an output is held, nothing else has happened",
    "lock.left": "the output is complete, its lock file is about to go",
    "write.begun": "the temporary of a single file is there, empty",
    "write.half": "half of its bytes are written",
    "write.synced": "all of its bytes are on the disk, under the temporary name",
    "write.replaced": "the file has its name, the folder is not yet synced",
    "put.half": "half of a file in a private folder is written",
    "put.written": "a file in a private folder is written",
    "publish.begun": "the private folder is there, empty",
    "publish.written": "everything is in the private folder, not yet synced",
    "publish.settling": "one more path of the private folder is synced",
    "publish.settled": "all of the private folder is on the disk",
    "publish.aside": "no exchange here: the old output has another name, the new one not yet its",
    "publish.swapped": "the output has its name, the folder around it is not yet synced",
    "publish.done": "the output is complete, what it replaced is not yet deleted",
    "discard.renamed": "what is to be deleted has lost its name",
    "train.step": "a step of training has ended, before its checkpoint",
    "train.checkpoint": "a checkpoint is complete, `latest` does not name it yet",
    "train.named": "`latest` names the new checkpoint, older ones are still there",
    "train.ended": "training has ended, what the run leaves is not yet written",
}

Listener = Callable[[str, Path], None]
_listener: Listener | None = None


def hit(point: str, path: Path) -> None:
    """Tell the listener, if any, that `point` is reached, with the file or folder concerned."""
    if _listener is not None:
        _listener(point, path)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` at every point while the block runs; its exceptions are raised there.

    Only tests use this.
    """
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
