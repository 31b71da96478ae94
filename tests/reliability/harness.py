"""A server of one verb, its cases, and the law that every case is held to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from house import ROOT

from .verbs import ABSENT, ATTEMPTS, OPEN, WHOLE

TESTS = ROOT / "tests"
GRACE = 10.0  # seconds after the first SIGTERM, when containers are killed
SIGNALS = ("SIGTERM", "SIGTERM twice")
EXITS = {"kill": (-9,), "SIGTERM": (143,), "SIGTERM twice": (143, -15)}
REFUSED = (7,)  # where the disk says no


class Server:
    """Answers cases one by one."""

    def __init__(self, child: subprocess.Popen[str], place: Path) -> None:
        self._child, self._place = child, place
        self.runs = 0  # of the verb
        first = self._answer()
        assert first["whole"], first["said"]
        self.seconds: float = first["seconds"]
        self.points: list[str] = first["points"]

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, "the server ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, case: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(case) + "\n")
        self._child.stdin.flush()
        self.runs += 2
        return self._answer()

    def connects(self) -> list[str]:
        """What of all that wanted to reach another machine."""
        attempts = self._place / ATTEMPTS
        return attempts.read_text().splitlines() if attempts.exists() else []


@contextmanager
def server(verb: str, place: Path) -> Iterator[Server]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
    env |= {"OMP_NUM_THREADS": "1", "EDGEGEN_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "reliability.server", verb, str(place)]
    log = open(place / "server.log", "w")  # noqa: SIM115
    with (
        log,
        subprocess.Popen(
            command,
            env=env,
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as child,
    ):
        try:
            yield Server(child, place)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(60)


def moments(server: Server, count: int) -> list[tuple[str, float]]:
    """As many as asked for: every kind of point, more of them evenly, and a fifth or more at
    moments in between.
    """
    points = server.points
    kinds = [points.index(kind) for kind in dict.fromkeys(points)]
    room = count - count // 5 - len(kinds)
    others = [at for at in range(len(points)) if at not in kinds]
    room = min(max(room, 0), len(others))
    spaced = [others[k * len(others) // room] for k in range(room)]
    hits = sorted({*kinds, *spaced})
    times = count - len(hits)
    return [("hit", at) for at in hits] + [
        ("time", server.seconds * (k + 0.5) / times) for k in range(times)
    ]


def asked(server: Server, case: dict[str, Any]) -> dict[str, Any]:
    """The answer; a run that has ended before its moment in time, or just as it was to be killed,
    is tried at half of it.
    """
    answer = server.ask(case)
    ended = answer["after"] is None or (case["what"] == "kill" and answer["code"] == 0)
    if ended and case["how"] == "time" and case["at"] > 0.01:
        return asked(server, {**case, "name": case["name"] + "-", "at": case["at"] / 2})
    return answer


def broken(answer: dict[str, Any], what: str) -> str:
    """How the answer breaks the law; nothing where it holds: the output is the old one or the new
    one, the exit says what happened, a rerun succeeds, and nothing is left over.
    """
    if answer["after"] is None:
        return "nothing was tried: it had ended before"
    if answer["state"] not in (ABSENT, OPEN, WHOLE):
        return f"the output is {answer['state']}"
    if answer["code"] not in EXITS.get(what, REFUSED):
        return f"it exits {answer['code']}"
    if what in SIGNALS and answer["after"] > GRACE:
        return f"it ends {answer['after']:.0f} s after the signal"
    if answer["again"]:
        return f"the rerun exits {answer['again']}"
    if answer["end"] != WHOLE:
        return f"after the rerun the output is {answer['end']}"
    return f"it leaves {answer['left']}" if answer["left"] else ""
