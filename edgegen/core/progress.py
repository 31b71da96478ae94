"""What long work says while it goes on: notes and progress, to whoever listens. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Listener(Protocol):
    """Takes what workflows report; may be called from several threads at once.

    The command line writes to stderr; a host program may fill a bar of its own or log.
    """

    def note(self, text: str) -> None:
        """One sentence that a user should read, such as what was left out."""

    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Advance]:
        """A piece of work as a block; inside it, advance(n) says that n more are done.

        total: how many advances make the whole, None if unknown. unit: of what is counted, such as
        "images", where a rate means something.
        """


class Silent:
    """Listens to nothing: the default of every workflow."""

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def progress(self, label: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
        yield lambda _: None


silent: Listener = Silent()
