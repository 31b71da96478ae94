"""Where training's photos come from: all in memory, or a stream from tar shards. The loop sees no
difference.
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
    """Photos with labels in a fixed order, and any step's batch of them.

    batch: pixels (size / world, h, w, c) uint8 and labels int64 of the step: a function of its
    arguments and the photos, so that a resumed run sees what the first one saw, and the shares of
    all ranks together are the batch of one process.
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
    """The photos at `path`, or as it was described, and what was met so far: tar shards as a
    stream, whatever load() reads in memory.

    workers: decoder processes of a stream, 0 for one a core; tell: called for each bad photo that a
    stream meets later. Errors as load(), InputError and TrustError of tar.py and shards.py.
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
    """Pixels of at most `count` photos, evenly spaced over all: photos are often sorted by
    class.
    """
    spaced = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64))
    return source.read(spaced)[0]
