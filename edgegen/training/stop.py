"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None  # as Python's signal has it
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class FirstSignal(KeyboardInterrupt):
    """The first one, where nothing has to be finished before it is heard."""


class Stop:
    """While the block runs, the first SIGINT, SIGTERM or SIGHUP is only noted in `signal`, but for
    blocks of at_once(); a second interrupts at once.

    patient: no second one does. (A launcher of several processes adds its own to the terminal's,
    and kills what takes too long.) The handlers from before come back when the block ends. Outside
    the main thread, which alone may handle signals, and for signals the process ignores (nohup),
    nothing changes.
    """

    def __init__(self, patient: bool = False) -> None:
        self.signal: int | None = None
        self._patient, self._at_once = patient, False
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """FirstSignal in the middle of the block, or at its start for one that was noted before it:
        what it does is done anew when the run goes on. Not of several processes, which have to meet
        again.
        """
        if self.signal is not None and not self._patient:
            raise FirstSignal(self.signal)
        before, self._at_once = self._at_once, not self._patient
        try:
            yield
        finally:
            self._at_once = before

    def check(self) -> None:
        """KeyboardInterrupt(signal number) if one was noted."""
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and not self._patient:
            raise KeyboardInterrupt(number)
        self.signal = number
        if self._at_once:
            raise FirstSignal(number)
