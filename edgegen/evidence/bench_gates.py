"""Check the rows of a bench against a file of gates, for a pipeline that has to stop. It needs
numpy only.

    min_psnr_db = 35            # of the pairs made here, over all pixels
    max_ruined = 0.002          # the upper limit of the share of ruined pairs
    max_cpu_ms = 20             # median CPU time from seed to image, batch 1
    min_speed = 2.0             # against the fastest full precision of the bundle
    state = "within"            # or "undecided": at least not outside

    [runtimes.openvino]         # for that runtime, in the place of the same keys above
    max_cpu_ms = 10

Gates apply to rows that are not full precision. A failed row passes none, and an unstable one none
of those on latency; a skipped row is checked only by the table of its runtime.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ..core.reader import read_bytes
from ..errors import InputError
from .bench_document import FULL, BenchRow, GateFound

GATES_BYTES = 1 << 20
STATES = ("within", "undecided")
RUNTIMES = "runtimes"
Limit = float | str


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a gate; `found` says in words what was measured."""

    passed: bool
    found: str


@dataclass(frozen=True)
class BenchGates:
    """Hold limits by key: those of every runtime, and those of single runtimes by name."""

    every: Mapping[str, Limit]
    by_runtime: Mapping[str, Mapping[str, Limit]]

    def of(self, runtime: str) -> dict[str, Limit]:
        return {**self.every, **self.by_runtime.get(runtime, {})}


def read_gates(path: Path, runtimes: Collection[str]) -> BenchGates:
    """Read gates from a TOML file.

    Raises InputError, which names the key, for an unknown key or a value that is no limit.
    """
    data = read_bytes(path, GATES_BYTES, "E-GATES")
    try:
        found = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError("E-GATES", f"not usable TOML: {error}", path=path) from error
    tables = found.pop(RUNTIMES, {})
    try:
        every = _limits(found, "")
        if not isinstance(tables, dict):
            raise ValueError(f"{RUNTIMES} is no table")
        by_runtime = {}
        for name, table in tables.items():
            if name not in runtimes:
                raise ValueError(
                    f"{RUNTIMES}.{name}: there is no such runtime{_near(name, runtimes)}"
                )
            if not isinstance(table, dict):
                raise ValueError(f"{RUNTIMES}.{name} is no table")
            by_runtime[name] = _limits(table, f"{RUNTIMES}.{name}.")
        if not every and not any(by_runtime.values()):
            raise ValueError(f"it holds no gate; known: {', '.join(GATES)}")
    except ValueError as error:
        raise InputError("E-GATES", str(error), path=path) from error
    return BenchGates(every, by_runtime)


def _limits(table: Mapping[str, object], place: str) -> dict[str, Limit]:
    limits: dict[str, Limit] = {}
    for key, value in table.items():
        if key not in GATES:
            raise ValueError(f"{place}{key}: there is no such gate{_near(key, GATES)}")
        if key == "state":
            if value not in STATES:
                raise ValueError(f"{place}state must be {' or '.join(STATES)}, got {value!r}")
            limits[key] = str(value)
        elif type(value) not in (int, float) or not 0 <= float(str(value)) < math.inf:
            raise ValueError(f"{place}{key} must be a number of 0 or more, got {value!r}")
        else:
            limits[key] = float(str(value))
    return limits


def _near(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def held_to(rows: Collection[BenchRow], gates: BenchGates) -> list[GateFound]:
    """Return the outcome of each gate for each row that it applies to; a gate that applies to no
    row fails.
    """
    found = list(_of_rows(rows, gates))
    measured = {row.runtime for row in rows if row.precision != FULL}
    for name, limits in gates.by_runtime.items():
        if name not in measured:
            said = "no bundle has files for it"
            found += [_gate(name, key, limits[key], Outcome(False, said)) for key in limits]
    if gates.every and not any(row.state != "skipped" and row.precision != FULL for row in rows):
        said = "nothing but full precision was measured"
        every = gates.every.items()
        found += [_gate("all rows", key, limit, Outcome(False, said)) for key, limit in every]
    return found


def _of_rows(rows: Collection[BenchRow], gates: BenchGates) -> Iterator[GateFound]:
    for row in (row for row in rows if row.precision != FULL):
        is_skipped = row.state == "skipped"
        limits = gates.by_runtime.get(row.runtime, {}) if is_skipped else gates.of(row.runtime)
        for key, limit in limits.items():
            if row.state in ("failed", "skipped"):
                outcome = Outcome(False, f"{row.state}: {row.why}"[:1000])
            else:
                outcome = GATES[key](row, limit)
            yield _gate(row.name, key, limit, outcome)


def _gate(row: str, key: str, limit: Limit, outcome: Outcome) -> GateFound:
    shown = limit if isinstance(limit, str) else f"{limit:g}"
    return GateFound(row=row, gate=key, limit=shown, found=outcome.found, passed=outcome.passed)


def _psnr(row: BenchRow, limit: Limit) -> Outcome:
    assert isinstance(limit, float)
    if row.quality is None:
        return Outcome(False, "no pairs were made")
    psnr = row.quality.psnr_db
    if psnr is None:
        return Outcome(True, "no pixel differs")
    return Outcome(psnr >= limit, f"{psnr:.2f} dB over {row.quality.pairs} pairs")


def _ruined(row: BenchRow, limit: Limit) -> Outcome:
    assert isinstance(limit, float)
    if row.quality is None:
        return Outcome(False, "no pairs were made")
    most, quality = row.quality.ruined_at_most, row.quality
    said = f"{quality.ruined} of {quality.pairs} pairs, so at most {most:.3%}"
    return Outcome(most <= limit, said)


def _latency(kind: str) -> Callable[[BenchRow, Limit], Outcome]:
    def held(row: BenchRow, limit: Limit) -> Outcome:
        assert isinstance(limit, float)
        first = row.first
        if first is None or first.unstable:
            return Outcome(False, "unstable" if first else "not measured")
        ms = first.cpu.p50 if kind == "cpu" else first.wall.p50
        return Outcome(ms <= limit, f"{ms:.3f} ms of {kind} time, batch {first.batch}")

    return held


def _speed(row: BenchRow, limit: Limit) -> Outcome:
    assert isinstance(limit, float)
    first = row.first
    if first is None or first.speed is None:
        return Outcome(False, "this or full precision is unstable or was not measured")
    return Outcome(first.speed >= limit, f"{first.speed:.2f} x the fastest full precision")


def _state(row: BenchRow, limit: Limit) -> Outcome:
    passing = ("within",) if limit == "within" else ("within", "undecided")
    return Outcome(row.state in passing, f"{row.state}: {row.why}" if row.why else row.state)


GATES: Mapping[str, Callable[[BenchRow, Limit], Outcome]] = {
    "min_psnr_db": _psnr,
    "max_ruined": _ruined,
    "max_cpu_ms": _latency("cpu"),
    "max_wall_ms": _latency("wall"),
    "min_speed": _speed,
    "state": _state,
}
