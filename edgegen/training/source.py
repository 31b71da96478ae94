"""The sources of training photos: all in memory, or streamed from tar shards, with the same
interface for the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from .data import Progress, Report, described, load
from .layout.description import Bad, FolderDescription
from .pool import default_workers
from .reading import PhotoReading
from .shards import find, index
from .stream import Shards


class Source(Protocol):
    """Photos with labels in a fixed order, and the batch of any step.

    batch: returns pixels (size / world, h, w, c) uint8 and labels int64 of the step. They depend
    only on its arguments and the photos, so that a resumed run sees the same batches, and the
    shares of all ranks together are the batch of one process.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...  # (n,) int64
    @property
    def shape(self) -> tuple[int, ...]: ...  # height, width, channels
    @property
    def fingerprint(self) -> str: ...  # names the photos in checkpoints
    def __len__(self) -> int: ...
    def batch(
        self, step: int, size: int, seed: int, rank: int = 0, world: int = 1
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


@contextmanager
def open_source(
    path: Path | FolderDescription,
    size: int,
    reading: PhotoReading | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    tell: Callable[[Bad], None] | None = None,
) -> Iterator[tuple[Source, Callable[[], Report]]]:
    """Yield the photos at `path` and a function that reports on the photos read so far.

    Tar shards are streamed, and everything else is loaded into memory by load(). workers: decoder
    processes of a stream, 0 for the default number; tell: called for each bad photo that a stream
    meets. Errors are those of load(), tar.py and shards.py.
    """
    reading = reading or PhotoReading()
    about = path if isinstance(path, FolderDescription) else described(path, reading)
    if about.kind != "shards":
        photos, report = load(about, size, reading, progress=progress)
        yield photos, lambda: report
        return
    want, found = reading.want(size), index(find(about.path))
    if not reading.classes:
        found = found.without_classes()
    with Shards(found, want, workers or default_workers(), reading.on_bad, tell) as stream:
        yield stream, stream.report


def sample(source: Source, count: int) -> np.ndarray:
    """Return the pixels of at most `count` photos, evenly spaced because photos are often sorted by
    class.
    """
    spaced = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64))
    return source.read(spaced)[0]
