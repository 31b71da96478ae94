"""Handling of signals such as Ctrl-C, so that a step is finished first."""

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
    """The first signal, raised in an at_once() block, where nothing must be finished first."""


class Stop:
    """A context manager in which the first SIGINT, SIGTERM or SIGHUP is only noted in `signal`,
    except in at_once() blocks; a second signal interrupts at once.

    patient: whether further signals are only noted too, because a launcher of several processes
    adds its own to the terminal's, and kills what takes too long. The earlier handlers are restored
    when the block ends. Nothing changes outside the main thread, which alone may handle signals,
    and for signals that the process ignores (nohup).
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
        """Let the first signal raise FirstSignal inside the block, or at its start if it was noted
        before. The resumed run does the block's work again.

        With `patient` (several processes, which must stay in step) signals are only noted.
        """
        if self.signal is not None and not self._patient:
            raise FirstSignal(self.signal)
        before, self._at_once = self._at_once, not self._patient
        try:
            yield
        finally:
            self._at_once = before

    def check(self) -> None:
        """Raise KeyboardInterrupt(signal number) if a signal was noted."""
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and not self._patient:
            raise KeyboardInterrupt(number)
        self.signal = number
        if self._at_once:
            raise FirstSignal(number)
