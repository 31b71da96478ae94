"""Print what a verb says: one JSON document or text on stdout, progress and tables that fit the
terminal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from ..errors import escaped
from .streams import styled

SCHEMA_VERSION = 1
PATIENCE = 2.0  # seconds before anything shows progress
INTERVAL = 10.0  # seconds between lines if there is no terminal

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Write one JSON document to stdout; all other output goes to stderr."
    ),
]

_write: Callable[[Mapping[str, Any]], None] | None = None


def result(verb: str, data: Mapping[str, Any]) -> None:
    """Write the document of a verb that succeeded, with --json only. Raises ValueError for NaN."""
    if _write is not None:
        _write({"schema_version": SCHEMA_VERSION, "ok": True, "verb": verb, **data})


@contextlib.contextmanager
def document(wanted: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Keep stdout for one document while the block runs: whatever a library or a verb prints goes
    to stderr.

    Yields a function that writes the document (or nothing, if it is not wanted). The file
    descriptor itself is redirected, because native libraries do not print through sys.stdout.
    """
    global _write
    if not wanted:
        yield lambda _: None
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    last: list[str] = []

    def write(data: Mapping[str, Any]) -> None:
        # a failure after a result replaces it, so that there is one true document
        last[:] = [json.dumps(data, indent=2, allow_nan=False)]

    _write = write
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield write
    finally:
        _write = None
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        for text in last:
            print(text, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout: with lines and colours on a terminal, elsewhere as aligned ASCII
    columns that never wrap.
    """
    cells = [[escaped(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(*columns)
        for row in cells:
            # Text keeps a file name with [brackets] from being read as markup
            shown.add_row(*(Text(cell) for cell in row))
        Console(file=styled(sys.stdout)).print(shown)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@contextlib.contextmanager
def progress(
    label: str, total: int | None = None, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """Yield advance(n); after 2 s stderr shows a bar on a terminal, or a plain line now and then
    elsewhere.

    `total` is the sum of all advances, None if unknown. `unit` names what is counted; its rate and
    the time left are shown from the second advance on, because a resumed run begins with one for
    all that is done. The thread that shows ends with the block.
    """
    show = _Bar(label, total, unit) if sys.stderr.isatty() else _Lines(label, total, unit)
    watcher = threading.Thread(target=show.watch, daemon=True)
    watcher.start()
    try:
        yield show.advance
    finally:
        show.over.set()
        watcher.join()


class _Lines:
    """Show `label: 128/512` every 10 s."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self.over = threading.Event()
        self.start = time.monotonic()
        self.first: tuple[int, float] | None = None  # amount and time at the first advance

    def advance(self, n: int) -> None:
        self.done += n
        if self.first is None:
            self.first = self.done, time.monotonic()

    def rate(self) -> str:
        """Return ", 812 images/s, 95 s left", or "" before a rate is known."""
        if not self.unit or self.first is None or self.done == self.first[0]:
            return ""
        rate = (self.done - self.first[0]) / max(1e-9, time.monotonic() - self.first[1])
        left = "" if self.total is None else f", {(self.total - self.done) / rate:.0f} s left"
        return (
            f", {rate:.3g} {self.unit}/s{left}"
            if rate < 100
            else f", {rate:.0f} {self.unit}/s{left}"
        )

    def watch(self) -> None:
        wait = PATIENCE
        while not self.over.wait(wait):
            self.line()
            wait = INTERVAL
        if wait == INTERVAL:
            self.line()

    def line(self) -> None:
        count = "" if self.total is None else f" {self.done}/{self.total}"
        print(
            f"{escaped(self.label)}:{count} ({time.monotonic() - self.start:.0f} s{self.rate()})",
            file=sys.stderr,
            flush=True,
        )


class _Bar(_Lines):
    """Show the same as a moving bar."""

    def watch(self) -> None:
        if self.over.wait(PATIENCE):
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        left = () if self.unit else (TimeRemainingColumn(),)
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *left,
            "{task.fields[rate]}",
        )
        with Progress(*columns, console=Console(file=styled(sys.stderr))) as bar:
            task = bar.add_task(
                escape(escaped(self.label)), total=self.total, completed=self.done, rate=""
            )
            while not self.over.wait(0.2):
                bar.update(task, completed=self.done, rate=self.rate().removeprefix(", "))
            bar.update(task, completed=self.done, rate=self.rate().removeprefix(", "))


def note(line: str) -> None:
    """Print one line for people on stderr."""
    print(escaped(line), file=sys.stderr)


class _Terminal:
    """Listen to workflows for the command line: notes and progress go to stderr."""

    def note(self, text: str) -> None:
        note(text)

    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return progress(label, total, unit)


terminal = _Terminal()
