"""The run folder during training: its lock, and checks that it is still there."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..core.disk import disk_error
from ..core.files import JsonObject
from ..core.locks import held
from ..core.reader import read_bytes
from ..core.temporary import sweep
from ..errors import ResourceError, TrustError
from .record import LARGEST


class Home:
    """The run folder while this process trains into it, under its lock."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._about = os.stat(out)

    @classmethod
    @contextlib.contextmanager
    def held(cls, out: Path) -> Iterator[Home]:
        """Lock the run folder, creating it if needed. Busy if another process trains into it."""
        with held(out.resolve()):
            try:
                out.mkdir(parents=True, exist_ok=True)
                home = cls(out)
            except OSError as error:
                raise disk_error(error, out) from error
            for place in (out, out / "samples"):
                sweep(place)
            yield home

    def check(self) -> None:
        """Raise ResourceError if the folder was removed, moved or replaced in the meantime."""
        try:
            if os.path.samestat(self._about, os.stat(self._out)):
                return
        except OSError:
            pass
        raise ResourceError(
            "E-RUN-GONE",
            "the run folder was removed or replaced while it was being trained into",
            path=self._out,
            hint="start the run anew, in a folder that nothing cleans up",
        )


def check_metrics(path: Path, state: JsonObject) -> None:
    """Raise TrustError unless the losses up to the checkpoint are those that were written.

    A missing or empty file is accepted; the run then continues without the earlier losses.
    """
    losses, wanted = read_bytes(path, LARGEST), state.get("metrics")
    if losses and wanted is not None and hashlib.sha256(losses).hexdigest() != wanted:
        raise TrustError(
            "E-HASH",
            "not the losses that were written",
            path=path,
            hint="remove it to go on without them",
        )
