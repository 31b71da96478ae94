"""kill -9, refusals of the disk and SIGTERM at every point of every verb that writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from faulty import REFUSALS

from .harness import Server, broken, moments, server
from .verbs import VERBS

KILLS = 50  # of each verb
GRACE = 10.0  # seconds after the first SIGTERM
Recorded = Callable[[str, object], None]
SLOW = ("finetune", "export")
pytestmark = [pytest.mark.reliability, pytest.mark.slow]


@pytest.fixture(scope="module", params=list(VERBS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    with server(request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield request.param, started


def tried(
    served: tuple[str, Server], whats: list[str], count: int, record_property: Recorded, row: str
) -> None:
    verb, started = served
    faults, done, whats_in_turn = [], 0, itertools.cycle(whats)
    for number, (how, at) in enumerate(moments(started, count)):
        what = next(whats_in_turn)
        case = {"name": f"{row}-{number}", "how": how, "at": at, "what": what}
        if how == "time" and what not in ("kill", "SIGTERM", "SIGTERM twice"):
            continue  # a refusal needs a point
        answer = started.ask(case)
        done += 1
        if fault := broken(answer, what):
            faults.append(f"{what} at {how} {at}: {fault}: {answer.get('log', '')[-600:]}")
        if what.startswith("SIGTERM") and answer["code"] not in (0, 143, -15):
            faults.append(f"{what} at {how} {at}: exit {answer['code']}")
        if what == "SIGTERM" and answer["seconds"] > started.seconds + GRACE:
            faults.append(f"{what} at {how} {at}: it took {answer['seconds']:.0f} s")
    record_property("reliability", [row, verb, done, len(faults)])
    assert faults == []


def test_kill_9(served: tuple[str, Server], record_property: Recorded) -> None:
    tried(served, ["kill"], KILLS, record_property, "kill")


def test_refusals(served: tuple[str, Server], record_property: Recorded) -> None:
    count = 12 if served[0] in SLOW else KILLS
    tried(served, list(REFUSALS), count, record_property, "refusal")


def test_signals(served: tuple[str, Server], record_property: Recorded) -> None:
    count = 10 if served[0] in SLOW else 20
    tried(served, ["SIGTERM", "SIGTERM twice"], count, record_property, "signal")
