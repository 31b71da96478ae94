"""A graph's file as a runtime takes it: bytes that were read once, not a path to read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .reader import GRAPH_BYTES, read_bytes


@dataclass(frozen=True)
class GraphFile:
    """path: for messages, and its suffix says what kind of file this is; read: what a file in the
    same folder holds, None where there is none of that name; vouched: whether this process made
    it, or somebody whom the site trusts.
    """

    path: Path
    read: Callable[[str], bytes | None] = field(repr=False)
    vouched: bool = False

    def data(self) -> bytes:
        """InputError where the file is not there."""
        found = self.read(self.path.name)
        if found is None:
            raise InputError("E-FILE", "there is no such file", path=self.path)
        return found

    @classmethod
    def made_here(cls, path: Path) -> GraphFile:
        """A file that this process made."""

        def read(name: str) -> bytes | None:
            beside = path.with_name(name)
            return read_bytes(beside, GRAPH_BYTES) if os.path.lexists(beside) else None

        return cls(path, read, True)

    @classmethod
    def of(cls, path: Path, data: bytes, vouched: bool = False) -> GraphFile:
        """These bytes, with nothing beside them."""
        return cls(path, lambda name: data if name == path.name else None, vouched)
