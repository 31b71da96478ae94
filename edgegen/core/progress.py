"""Notes and progress that long work reports to a listener; nothing here prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Listener(Protocol):
    """Receives what workflows report; may be called from several threads at once.

    The command line's listener writes to stderr; a host program may use a progress bar or a log.
    """

    def note(self, text: str) -> None:
        """Receive one sentence that a user should read, such as what was left out."""

    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Advance]:
        """Open a block for a piece of work; in it, advance(n) reports that n more units are done.

        total: number of units, None if unknown. unit: name of the units, such as "images", if a
        rate is meaningful.
        """


class Silent:
    """A listener that ignores everything, the default of every workflow."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda _: None


silent: Listener = Silent()
