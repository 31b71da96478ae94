"""Standard streams that are closed, full or ended: the work is done, and the exit code tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgegen.cli import exit_contract, main, output, streams
from edgegen.errors import GateFailed

ROOT = Path(__file__).resolve().parents[1]
MUCH = 1 << 17  # bytes: more than a pipe holds


@contextmanager
def full() -> Iterator[Any]:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        yield stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def ended() -> Iterator[Any]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


@contextmanager
def closed() -> Iterator[Any]:
    stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stream.close()
    yield stream


def verb(path: Path, much: int = 10) -> Any:
    """Says something, works, says its result: as verbs do."""

    def program(_: list[str]) -> None:
        output.note("it begins")
        print("early")
        with output.progress("working", 2) as advance:
            advance(2)
        path.write_text("the work")
        output.result("x", {"images": "3" * much})
        print("done" * much)

    return program


REFUSED = {"full": (full, 7), "ended": (ended, 141), "closed": (closed, 7)}


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("much", [10, MUCH])
@pytest.mark.parametrize("how", REFUSED)
def test_stdout_that_refuses(
    how: str,
    much: int,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stream, code = REFUSED[how]
    with stream() as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert exit_contract.call(verb(tmp_path / "out", much), flags) == code
        monkeypatch.undo()
    assert (tmp_path / "out").read_text() == "the work"
    said = capfd.readouterr().err
    assert "it begins" in said and "Traceback" not in said
    assert ("error[E-STDOUT] standard output cannot be written: " in said) == (code == 7)


@pytest.mark.parametrize("flags", [[], ["--json"]])
@pytest.mark.parametrize("how", REFUSED)
def test_stderr_that_refuses(
    how: str,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Notes and progress go nowhere; the result is said, and a failure keeps its code."""
    monkeypatch.setattr(output, "PATIENCE", 0.0)

    def failing(_: list[str]) -> None:
        output.note("it begins")
        raise GateFailed("E-GATE", "outside")

    with REFUSED[how][0]() as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert exit_contract.call(verb(tmp_path / "out"), flags) == 0
        monkeypatch.setattr(sys, "stderr", stderr)
        assert exit_contract.call(failing, flags) == 3
        monkeypatch.undo()
    shown = capfd.readouterr().out
    assert '"images": "3333333333"' in shown if flags else "donedone" in shown


@pytest.mark.parametrize("how", REFUSED)
def test_a_failure_is_what_counts(
    how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(_: list[str]) -> None:
        print("x" * MUCH)
        raise GateFailed("E-GATE", "outside")

    for flags in ([], ["--json"]):
        with REFUSED[how][0]() as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert exit_contract.call(failing, flags) == 3
            monkeypatch.undo()
        assert capfd.readouterr().err == "error[E-GATE] outside\n" or flags


@pytest.mark.parametrize("arguments", [["models", "--json"], ["models"], ["--help"], ["--version"]])
def test_verbs_of_much_output_and_a_reader_that_leaves(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with ended() as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main.run(arguments) == 141
        monkeypatch.undo()
    assert "error" not in capfd.readouterr().err.lower()


CLOSED = """
import os, sys
from edgegen.cli import exit_contract, output
def program(arguments):
    output.note("a note")
    with open(sys.argv[1], "w") as file:
        print("a result")
        os.system("echo a library talks")
        file.write("the work")
    output.result("x", {"images": 3})
sys.exit(exit_contract.call(program, sys.argv[2:]))
"""


@pytest.mark.parametrize("flags", ["", "--json"])
@pytest.mark.parametrize("closing", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_streams_that_were_closed_before_it_began(closing: str, flags: str, tmp_path: Path) -> None:
    """The next file that is opened must not become one of them."""
    out = tmp_path / "out"
    command = f'exec "$0" -c "$1" "$2" {flags} {closing}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, CLOSED, str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert out.read_text() == "the work"
    if closing == "2>&-":
        assert "a note" not in done.stdout
        assert json.loads(done.stdout)["images"] == 3 if flags else "a result" in done.stdout
    else:
        assert done.stdout == ""


def test_streams_are_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    assert exit_contract.call(lambda _: None, []) == 0
    assert (sys.stdout, sys.stderr) == before and not isinstance(before[0], streams.Stream)
