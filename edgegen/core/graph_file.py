"""A graph's file as a runtime takes it: bytes that are already read, not a path to read again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InputError
from .reader import GRAPH_BYTES, read_bytes
from .temporary import scratch
from .weight_file import WeightFile
from .weights import SUFFIX


@dataclass(frozen=True)
class GraphFile:
    """A graph's file, with access to the files beside it.

    path: for messages; its suffix says what kind of file this is. read: returns the bytes of a file
    in the same folder, or None if it does not exist. vouched: whether this process or a signer whom
    the site trusts made it. weights: the external weights of an ONNX file, if any. kept: whether
    `path` itself may be opened, because nobody else writes there.
    """

    path: Path
    read: Callable[[str], bytes | None] = field(repr=False)
    vouched: bool = False
    weights: WeightFile | None = None
    kept: bool = False

    @contextlib.contextmanager
    def placed(self) -> Iterator[Path]:
        """Yield a path to the file with its weights beside it, for code that cannot take bytes.

        Unless `kept`, it lies in a folder that only this user can write, and only during the block.
        """
        if self.kept:
            yield self.path
            return
        with scratch() as folder:
            place = folder / self.path.name
            place.write_bytes(self.data())
            self.put_weights(folder)
            yield place

    def data(self) -> bytes:
        """Return the bytes of the file. InputError if it does not exist."""
        found = self.read(self.path.name)
        if found is None:
            raise InputError("E-FILE", "there is no such file", path=self.path)
        return found

    def put_weights(self, folder: Path) -> None:
        """Copy the external weights, if there are any, into `folder`."""
        if self.weights is not None:
            self.weights.copy(folder / self.path.with_suffix(SUFFIX).name)

    def of_bytes(self, data: bytes) -> GraphFile:
        """Return another graph, given as bytes, with the weights of this one."""
        return replace(self, read=GraphFile.of(self.path, data).read, kept=False)

    @classmethod
    def made_here(cls, path: Path) -> GraphFile:
        """Return the file at `path`, which this process made and therefore vouches for."""

        def read(name: str) -> bytes | None:
            beside = path.with_name(name)
            return read_bytes(beside, GRAPH_BYTES) if os.path.lexists(beside) else None

        beside = path.with_suffix(SUFFIX)
        apart = path.suffix == ".onnx" and os.path.lexists(beside)
        weights = WeightFile.made_here(beside) if apart else None
        return cls(path, read, True, weights, kept=True)

    @classmethod
    def of(cls, path: Path, data: bytes, vouched: bool = False) -> GraphFile:
        """Return a graph file of these bytes, with no other files beside it."""
        return cls(path, lambda name: data if name == path.name else None, vouched)
