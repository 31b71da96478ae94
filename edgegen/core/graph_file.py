"""A graph's file as a runtime takes it: bytes that were read once, not a path to read again."""

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
    """path: for messages, and its suffix says what kind of file this is; read: what a file in the
    same folder holds, None where there is none of that name; vouched: whether this process made
    it, or somebody whom the site trusts; weights: those of an ONNX file that lie beside it; kept:
    whether path itself may be opened, since nobody else writes there.
    """

    path: Path
    read: Callable[[str], bytes | None] = field(repr=False)
    vouched: bool = False
    weights: WeightFile | None = None
    kept: bool = False

    @contextlib.contextmanager
    def placed(self) -> Iterator[Path]:
        """The file with its weights beside it, in a folder where only this user can change them
        while the block runs: for who does not take bytes.
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
        """InputError where the file is not there."""
        found = self.read(self.path.name)
        if found is None:
            raise InputError("E-FILE", "there is no such file", path=self.path)
        return found

    def put_weights(self, folder: Path) -> None:
        """A private copy of its weights in that folder; nothing where it has none."""
        if self.weights is not None:
            self.weights.copy(folder / self.path.with_suffix(SUFFIX).name)

    def of_bytes(self, data: bytes) -> GraphFile:
        """Another graph with the weights of this one."""
        return replace(self, read=GraphFile.of(self.path, data).read, kept=False)

    @classmethod
    def made_here(cls, path: Path) -> GraphFile:
        """A file that this process made."""

        def read(name: str) -> bytes | None:
            beside = path.with_name(name)
            return read_bytes(beside, GRAPH_BYTES) if os.path.lexists(beside) else None

        beside = path.with_suffix(SUFFIX)
        apart = path.suffix == ".onnx" and os.path.lexists(beside)
        weights = WeightFile.made_here(beside) if apart else None
        return cls(path, read, True, weights, kept=True)

    @classmethod
    def of(cls, path: Path, data: bytes, vouched: bool = False) -> GraphFile:
        """These bytes, with nothing beside them."""
        return cls(path, lambda name: data if name == path.name else None, vouched)
