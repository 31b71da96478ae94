"""A cache on disk for results that take long to compute.

Each result is written as soon as it is known, so an interrupted run continues where it stopped and
a repeated run gives the same results.
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
KEPT = 30 * 24 * 3600  # seconds after its last change at which a file of notes is deleted


class Notes:
    """A file of questions and answers, one JSON line each with the seconds that the answer took.

    The file's name holds a hash of everything that the answers depend on. An answer is any JSON
    value. A line that a crash cut off is ignored. Several threads may ask at once, as long as each
    asks a different question.
    """

    def __init__(self, path: Path) -> None:
        """Read the notes of `path`; neither the file nor its folder needs to exist."""
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
        # older files of notes have no seconds
        self._seconds[asked] = float(note.get("seconds", 0.0))

    def knows(self, question: str) -> bool:
        """Return whether the answer to `question` is already noted."""
        return question in self._known

    def seconds(self, question: str) -> float:
        """Return the seconds that the answer took to compute. KeyError if it is not noted."""
        return self._seconds[question]

    def recall(self, question: str, find: Callable[[], Any]) -> Any:
        """Return the noted answer, or call `find` and note its answer before returning it.

        OSError if the note cannot be written.
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
        """Return whether the file ends within a line, which a new note must not continue."""
        data = read_bytes(self._path, NOTES_BYTES)
        return bool(data) and not data.endswith(b"\n")


def folder(kind: str) -> Path:
    """Return the folder for this user's notes of a kind, after deleting files older than 30 days.

    A file's age is the time since it was last changed.
    """
    place = cache() / kind
    for old in place.glob("*.jsonl"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT:
                old.unlink()
    return place


def cache() -> Path:
    """Return the cache folder, whose content may be deleted at any time.

    It is EDGEGEN_CACHE, or edgegen in XDG_CACHE_HOME, or ~/.cache/edgegen.
    """
    if folder_named := os.environ.get("EDGEGEN_CACHE"):
        return Path(folder_named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgegen"
