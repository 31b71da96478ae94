"""kill -9, refusals of the disk and SIGTERM at every point of every verb that writes, and no word
to the network meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from faulty import REFUSALS

from .harness import SIGNALS, Server, asked, broken, moments, server
from .verbs import VERBS

KILLS = 50  # of each verb
FEW = {"finetune": 12, "export": 12}  # of the rest, where a run takes seconds
Recorded = Callable[[str, object], None]
pytestmark = [pytest.mark.reliability, pytest.mark.slow]


def tried(
    started: Server, row: str, whats: Sequence[str], places: list[tuple[str, float]]
) -> list[str]:
    """Each place with one of these harms in turn; what broke the law."""
    faults, whats_in_turn = [], itertools.cycle(whats)
    for number, (how, at) in enumerate(places):
        what = next(whats_in_turn)
        answer = asked(started, {"name": f"{row}-{number}", "how": how, "at": at, "what": what})
        if fault := broken(answer, what):
            point = started.points[int(at)] if how == "hit" else ""
            said = answer.get("log", "")[-600:]
            faults.append(f"{what} at {how} {at} {point}: {fault}: {said}")
    return faults


@pytest.mark.parametrize("verb", VERBS)
def test_the_output_is_the_old_one_or_the_new_one(
    verb: str, tmp_path: Path, record_property: Recorded
) -> None:
    faults = []
    with server(verb, tmp_path) as started:
        few = FEW.get(verb, KILLS)
        points = [place for place in moments(started, few) if place[0] == "hit"]
        points = list(itertools.islice(itertools.cycle(points), few))
        for row, whats, places in (
            ("kill", ["kill"], moments(started, KILLS)),
            ("refusal", REFUSALS, points),
            ("signal", SIGNALS, moments(started, FEW.get(verb, 20))),
        ):
            found = tried(started, row, whats, places)
            record_property("reliability", [row, verb, len(places), len(found)])
            faults += found
        record_property("reliability", ["inet", verb, started.runs, len(started.connects())])
        assert started.connects() == []
    assert faults == []
