"""Ask questions that a process of its own answers: a crash is an answer too, and so is a wish for
the network.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..core.offline import offline
from ..core.temporary import scratch

LIMIT = 120  # seconds one question may take
ATTEMPTS = "attempts"  # file in the child's folder with a line for each wish to reach the network
# The child looks for modules in the same places as this process: with -m it would also load a
# user's own json.py from the working folder.
_CHILD = (
    "import sys; sys.path[:] = sys.argv[5:]; from edgegen.machine.child_process import child; "
    "child(*sys.argv[1:5])"
)


@dataclass(frozen=True)
class Answer:
    """Hold what the child returned (None if it could not), the reason, and what in it wanted to
    reach the network.
    """

    found: Any
    why: str = ""
    attempts: tuple[str, ...] = ()


def ask(
    question: str, *arguments: str, listen: float | None = None, limit: float | None = None
) -> Answer:
    """Return the JSON value that `question` ("module:function") returns in a child process, which
    calls it with a folder and the arguments.

    With `listen`, the child is sealed off the network and continues for so many seconds after its
    answer; `limit` is the seconds that it may take, by default LIMIT.
    """
    patience = LIMIT if limit is None else limit
    with scratch() as place:
        folder = str(place)
        seconds = "" if listen is None else str(listen)
        command = [
            sys.executable,
            "-P",
            "-c",
            _CHILD,
            question,
            folder,
            json.dumps(arguments),
            seconds,
            *sys.path,
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience + (listen or 0),
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return Answer(None, f"no answer within {patience:g} s", _attempts(folder))
        attempts = _attempts(folder)
        if done.returncode == -signal.SIGSYS:
            return Answer(
                _last(done.stdout),
                "the kernel ended it",
                (*attempts, "native code opens an internet socket"),
            )
    if done.returncode < 0:
        return Answer(
            None, f"the process crashed with {signal.Signals(-done.returncode).name}", attempts
        )
    if (found := _last(done.stdout)) is None:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return Answer(None, f"the process ended with {done.returncode}: {lines[-1]}", attempts)
    return Answer(found, "", attempts)


def _last(text: str) -> Any:
    """Parse the last line as JSON, because libraries print before it; None if it is not JSON."""
    try:
        return json.loads(text.splitlines()[-1])
    except (ValueError, IndexError):
        return None


def _attempts(folder: str) -> tuple[str, ...]:
    path = Path(folder) / ATTEMPTS
    return (
        tuple(dict.fromkeys(path.read_text("utf-8", "replace").splitlines()))
        if path.is_file()
        else ()
    )


def child(question: str, folder: str, arguments: str, listen: str) -> None:
    """Answer in the child process: print the answer as one line of JSON."""
    if listen:
        from .network_sandbox import seal

        seal(Path(folder) / ATTEMPTS)
    offline()
    module, _, function = question.partition(":")
    found = getattr(import_module(module), function)(Path(folder), *json.loads(arguments))
    print(json.dumps(found), flush=True)
    if listen:
        time.sleep(float(listen))
