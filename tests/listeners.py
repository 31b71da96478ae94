"""A listener that keeps what workflows report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Heard:
    """notes: every note in order; labels: of every piece of work."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.labels: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> Iterator[Callable[[int], None]]:
        self.labels.append(label)
        yield lambda _: None
