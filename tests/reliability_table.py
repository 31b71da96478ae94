"""The table that `make reliability` ends with: what was tried, how often, and what broke."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import pytest

ROWS = {
    "kill": "kill -9 at every point: broken outputs or failed reruns",
    "refusal": "refusals of the disk at every point",
    "signal": "SIGTERM once and twice: later than 10 s, or another exit code",
    "bundle damage": "bit flips and truncations of bundles that were not found",
    "run damage": "bit flips and truncations of run folders that were not found",
    "resume": "resumes after a kill that are not exact to the bit",
    "inet": "connects to another machine, of verbs that were sealed off and of these tests",
    "parser": "inputs of property tests that broke a parser",
}


def lines(reports: Iterable[pytest.TestReport], seconds: float) -> list[str]:
    """One line a row, with its parts: how many cases, and how many of them failed."""
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    attacks = [0, 0]
    for report in reports:
        for name, value in report.user_properties:
            if name == "reliability" and report.when == "call":
                row, part, cases, faults = cast(tuple[str, str, int, int], value)
                before = found[row].get(part, (0, 0))
                found[row][part] = before[0] + cases, before[1] + faults
        if report.nodeid.startswith("tests/attacks/") and report.when == "call":
            attacks[0] += 1
            attacks[1] += report.failed
    table = [f"{attacks[0]:6} cases, {attacks[1]} failed: corpora of tests/attacks"]
    for row, words in ROWS.items():
        cases = sum(c for c, _ in found[row].values())
        faults = sum(f for _, f in found[row].values())
        parts = ", ".join(f"{part} {c}" for part, (c, _) in sorted(found[row].items()))
        table.append(f"{cases:6} cases, {faults} failed: {words} ({parts or 'not run'})")
    return [f"reliability, in {seconds / 60:.0f} minutes", *table]
