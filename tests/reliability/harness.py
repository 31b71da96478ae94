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

from .verbs import ABSENT, OPEN, WHOLE

TESTS = ROOT / "tests"


class Server:
    """Answers cases one by one."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
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
        return self._answer()


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
            yield Server(child)
        finally:
            assert child.stdin is not None
            child.stdin.close()
            child.wait(60)


def moments(server: Server, count: int) -> list[tuple[str, float]]:
    """As many as asked for: every kind of point, more of them evenly, and moments in between."""
    points = server.points
    kinds = [points.index(kind) for kind in dict.fromkeys(points)]
    spaced = [k * len(points) // count for k in range(count)]
    hits = list(dict.fromkeys([*kinds, *spaced]))[:count]
    times = count - len(hits)
    return [("hit", at) for at in hits] + [
        ("time", server.seconds * (k + 0.5) / times) for k in range(times)
    ]


def broken(answer: dict[str, Any], what: str) -> str:
    """How the answer breaks the law; nothing where it holds: the output is the old one or the new
    one, the exit says that it was interrupted, a rerun succeeds, and nothing is left over.
    """
    if answer["state"] not in (ABSENT, OPEN, WHOLE):
        return f"the output is {answer['state']}"
    if answer["code"] == 0 and what == "kill":
        return ""  # it had ended before its moment
    if answer["code"] in (0, 1, 124) and answer["state"] != WHOLE:
        return f"it exits {answer['code']}"
    if answer["again"]:
        return f"the rerun exits {answer['again']}"
    if answer["end"] != WHOLE:
        return f"after the rerun the output is {answer['end']}"
    return f"it leaves {answer['left']}" if answer["left"] else ""
