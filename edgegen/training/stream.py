"""Streaming of photos from tar shards, for sets larger than memory, in the order of order.py."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .data import Report, refuse_bad
from .layout.description import Bad
from .order import WINDOW, Shuffle, share
from .photos import BadPhoto, Span, Want
from .pool import Pool
from .shards import Index
from .tar import name_at

AHEAD = 2  # batches that are decoded in advance
CACHE = 2 << 30  # bytes of decoded photos in the cache; a set that fits is decoded once
FEWEST = 1_000  # photos to see before the share of bad ones is meaningful for all
GIVE_UP = 100  # bad photos in a row, after which training stops


class _Key(NamedTuple):
    step: int
    size: int
    seed: int
    rank: int
    world: int


class Shards:
    """A Source of the photos of an index, as a context manager at whose end the decoders stop.

    A photo that cannot be decoded is named in report(), and the next one that can be decoded takes
    its place, which depends on the shards alone. tell: called once for each bad photo. on_bad:
    "fail" raises BadPhotos for the first one.
    """

    def __init__(
        self,
        index: Index,
        want: Want,
        workers: int,
        on_bad: str = "skip",
        tell: Callable[[Bad], None] | None = None,
        cache: int = CACHE,
        window: int = WINDOW,
    ) -> None:
        self.index, self.want, self.on_bad, self.tell = index, want, on_bad, tell
        self.classes, self.labels, self.shape = (
            index.classes,
            index.labels,
            (want.size, want.size, 3),
        )
        self._shuffle = Shuffle(index.counts, window)
        self._pool = Pool(want, workers)
        self._room = cache // (want.size**2 * 3)
        self._kept: dict[int, bytes] = {}
        self._bad: dict[int, Bad] = {}
        self._warned: dict[str, np.ndarray] = {}  # code -> whose it is, (n,) bool
        self._seen = 0
        self._lock = Lock()
        self._ahead: dict[_Key, list[Future[tuple[bytes, int]]]] = {}
        refuse_bad(self.report(), self.path, on_bad)

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def path(self) -> Path:
        return self.index.paths[0] if len(self.index.paths) == 1 else self.index.paths[0].parent

    @property
    def fingerprint(self) -> str:
        """The sha256 over sizes, labels, the ends of the photos' bytes, the order's window and how
        photos are decoded.
        """
        return hashlib.sha256(
            repr((self.index.digest, self._shuffle.window, self.want)).encode()
        ).hexdigest()

    def batch(
        self, step: int, size: int, seed: int, rank: int = 0, world: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of process `rank` of `world` in the step's batch, and start decoding the
        photos of the next steps.
        """
        keys = [_Key(step + k, size, seed, rank, world) for k in range(AHEAD + 1)]
        for old in self._ahead.keys() - set(keys):
            for future in self._ahead.pop(old):
                future.cancel()
        self.index.unchanged()
        for key in keys:
            if key not in self._ahead:
                indices = share(self._shuffle.picks(size, key.step, seed), rank, world)
                self._ahead[key] = [self._pool.run(self._photo, int(i)) for i in indices]
        return self._settled(self._ahead.pop(keys[0]))

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels and labels of these photos, counted through the shards in order."""
        self.index.unchanged()
        return self._settled([self._pool.run(self._photo, int(i)) for i in indices])

    def report(self) -> Report:
        """Return a report on the photos read so far; `found` counts all photos, but only those read
        can be known to be bad.
        """
        with self._lock:
            bad = tuple(sorted([*self.index.bad, *self._bad.values()], key=lambda b: b.name))
            changed = {
                code: np.flatnonzero(mask).tolist() for code, mask in sorted(self._warned.items())
            }
        warnings = {code: tuple(map(self._where, numbers)) for code, numbers in changed.items()}
        counts = Counter(self.labels.tolist())
        if self.index.ignored:
            warnings["W-DATA-IGNORED"] = tuple(
                f"{name}: {n}" for name, n in sorted(self.index.ignored.items())
            )
        return Report(
            len(self) + len(self.index.bad),
            len(self) + len(self.index.bad) - len(bad),
            {name: counts[k] for k, name in enumerate(self.classes)},
            bad,
            warnings,
            fit=self.want.fit,
        )

    def _settled(self, futures: list[Future[tuple[bytes, int]]]) -> tuple[np.ndarray, np.ndarray]:
        photos = [future.result() for future in futures]
        pixels = np.frombuffer(b"".join(data for data, _ in photos), np.uint8).reshape(
            -1, *self.shape
        )
        return pixels.copy(), self.labels[[number for _, number in photos]]

    def _photo(self, number: int) -> tuple[bytes, int]:
        """Return the pixels of the photo or of the next that can be decoded, and its number."""
        for k in range(min(GIVE_UP, len(self))):
            at = (number + k) % len(self)
            if (data := self._decoded(at)) is not None:
                return data, at
        raise InputError(
            "E-DATA-BAD",
            f"{GIVE_UP} photos in a row cannot be used, from photo {number} on",
            path=self.path,
        )

    def _decoded(self, number: int) -> bytes | None:
        if number in self._bad:
            return None
        if (cached := self._kept.get(number)) is not None:
            return cached
        shard, offset, size, _ = self.index.place(number)
        path = self.index.paths[shard]
        try:
            data, warnings, _ = self._pool.decode((str(path), Span(offset, size)))
        except BadPhoto as error:
            self._note(
                number, Bad(f"{path.name}/{name_at(path, offset)}", error.code, error.reason)
            )
            return None
        with self._lock:
            self._seen += 1
            if len(self._kept) < self._room:
                self._kept[number] = data
            for code in warnings:
                self._warned.setdefault(code, np.zeros(len(self), bool))[number] = True
        return data

    def _note(self, number: int, bad: Bad) -> None:
        with self._lock:
            new = number not in self._bad
            self._bad[number] = bad
            seen = self._seen + len(self._bad)
        if new and self.tell:
            self.tell(bad)
        refuse_bad(
            Report(min(len(self), max(seen, FEWEST)), 0, bad=self.report().bad),
            self.path,
            self.on_bad,
        )

    def _where(self, number: int) -> str:
        place = self.index.place(number)
        return f"{self.index.paths[place.shard].name}@{place.offset}"
