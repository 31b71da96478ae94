"""Answers that took long to find, kept as soon as they are known: what was interrupted goes on,
what is repeated is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .files import JsonObject
from .reader import read_bytes

NOTES_BYTES = 1 << 30  # largest file of notes
KEPT = 30 * 24 * 3600  # seconds that notes nobody asked for stay


class Notes:
    """Questions and answers, one JSON line each, with what finding the answer took. The file's name
    holds a hash of everything that the answers depend on.

    A line that a crash cut off is no answer; an answer is any JSON value. Several threads may ask
    at once, each another question.
    """

    def __init__(self, path: Path) -> None:
        """`path` need not exist, nor its folder."""
        self._path, self._lock = path, threading.Lock()
        self._known: JsonObject = {}
        self._seconds: dict[str, float] = {}
        if path.exists():
            for line in read_bytes(path, NOTES_BYTES).splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._take(json.loads(line))

    def _take(self, note: JsonObject) -> None:
        asked = note["asked"]
        self._known[asked] = note["answer"]
        # notes of before have none
        self._seconds[asked] = float(note.get("seconds", 0.0))

    def knows(self, question: str) -> bool:
        """Whether the answer is noted."""
        return question in self._known

    def seconds(self, question: str) -> float:
        """What finding its answer took, whoever found it; KeyError where it is not noted."""
        return self._seconds[question]

    def recall(self, question: str, find: Callable[[], Any]) -> Any:
        """The answer noted, or the one that `find` gives, noted before it is returned. OSError when
        it cannot be.
        """
        if question not in self._known:
            started = time.monotonic()
            answer = find()
            took = round(time.monotonic() - started, 3)
            note = {"asked": question, "answer": answer, "seconds": took}
            line = json.dumps(note, allow_nan=False)
            with self._lock:
                self._note(line)
                self._take(json.loads(line))
        return self._known[question]

    def _note(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a+b") as f:
            f.write(b"\n" * self._torn() + line.encode() + b"\n")
            f.flush()
            os.fsync(f.fileno())

    def _torn(self) -> bool:
        """Whether the file ends within a line: the next one must not begin there."""
        data = read_bytes(self._path, NOTES_BYTES)
        return bool(data) and not data.endswith(b"\n")


def folder(kind: str) -> Path:
    """Where notes of a kind are kept for this user; those that nobody touched for 30 days are
    gone.
    """
    place = cache() / kind
    for old in place.glob("*.jsonl"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink()
    return place


def cache() -> Path:
    """EDGEGEN_CACHE, or edgegen in XDG_CACHE_HOME, or ~/.cache/edgegen: what may be deleted at any
    time.
    """
    if folder_named := os.environ.get("EDGEGEN_CACHE"):
        return Path(folder_named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgegen"
