"""Handle standard output and standard error in any state: closed, full, or a pipe whose reader has
gone.

None of it ends the work. What a verb says is the last thing it does with its result, so the first
refusal is remembered, later output is dropped, and the exit code tells. Nothing that a file, a
photo's name or a library puts into a line reaches the terminal as a command to it.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TextIO, cast

from ..errors import ESCAPES, ResourceError

# A printed line break ends a line; one in a name is escaped when the name is inserted.
_PRINTED = {code: text for code, text in ESCAPES.items() if chr(code) not in "\n\t"}


class Stream(io.TextIOBase):
    """Write text without ever raising OSError, and escape what a terminal would interpret."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner
        self.refused: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        return self.pass_on(text.translate(_PRINTED))

    def pass_on(self, text: str) -> int:
        """Write the text unchanged."""
        self._try(lambda: self._inner.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._inner.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.refused is not None:
            return
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError means that it was closed
            self.refused = error
            with contextlib.suppress(OSError, ValueError):
                # the rest of the buffer goes there when the process ends
                _lead_nowhere(self._inner.fileno())

    def fileno(self) -> int:
        return self._inner.fileno()

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):
            return self._inner.isatty()
        return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._inner.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._inner.errors


class _Styled(Stream):
    """Pass the same stream to a writer of colours and cursor movements, which escapes its own
    input.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream._inner)
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.pass_on(text)

    def flush(self) -> None:
        self._stream.flush()


def styled(stream: TextIO) -> TextIO:
    """Return the stream for rich, whose cells and labels are escaped one by one."""
    return cast(TextIO, _Styled(stream)) if isinstance(stream, Stream) else stream


@contextlib.contextmanager
def patient() -> Iterator[Callable[[int], int]]:
    """Replace sys.stdout and sys.stderr by Streams while the block runs.

    Yields a function that computes the exit code of the whole from that of the work.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors="backslashreplace")  # a terminal cannot show every name
    out, err = (Stream(stream) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)

    def settled(code: int) -> int:
        out.flush()
        err.flush()
        if out.refused is None or code:
            return code
        if isinstance(out.refused, BrokenPipeError):  # as in `edgegen models | head -1`
            return 128 + signal.SIGPIPE
        why = ResourceError(
            "E-STDOUT",
            f"standard output cannot be written: {getattr(out.refused, 'strerror', out.refused)}",
            hint="the work itself is done; its files are where they were asked for",
        )
        print(why, file=sys.stderr)
        err.flush()
        return why.exit_code

    try:
        yield settled
    finally:
        sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Let descriptors that were closed at the start lead nowhere: otherwise the next file to be
    opened would get one of them, and printed text would end up in it.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            _lead_nowhere(fd)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _lead_nowhere(fd: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != fd:
        os.dup2(nowhere, fd)
        os.close(nowhere)
    os.set_inheritable(fd, True)
