"""The contract of the command line: exit codes, one sentence, one JSON document, signals,
environment variables.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer

from edgegen import __version__, errors
from edgegen.cli import exit_contract, main, output

ROOT = Path(__file__).resolve().parents[1]
Captured = pytest.CaptureFixture[str]
HELP = "`edgegen --help` lists the verbs, `edgegen VERB --help` its flags"
REPORT = "add -vv to see where, and report it"
MEMORY = "error[E-OOM] not enough memory - use a smaller batch"


def edgegen(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgegen", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def raising(error: BaseException) -> Any:
    def program(_: list[str]) -> None:
        raise error

    return program


def test_version_and_help() -> None:
    assert edgegen("--version").stdout == f"{__version__}\n"
    shown = edgegen("--help")
    assert shown.returncode == 0
    for verb in main.VERBS:
        assert verb.__name__ in shown.stdout
        assert verb.__doc__


@pytest.mark.parametrize("arguments", [["--help"], ["photos", "--help"], ["plan", "--help"]])
def test_help_lists_every_verb_with_its_whole_sentence(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """At 80 columns, where Typer's own list would cut them."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("..." in line for line in lines[1:])
    group = main.GROUPS.get(arguments[0], main.app)
    verbs = [command.callback for command in group.registered_commands]
    text = " ".join(" ".join(lines).split())
    for verb in verbs:
        assert verb is not None and " ".join((verb.__doc__ or "").split()) in text
    assert verbs


def test_no_arguments_show_help_and_are_an_error() -> None:
    done = edgegen()
    assert done.returncode == 2
    assert "Usage: edgegen" in done.stdout


def test_an_unknown_verb_suggests_the_right_one() -> None:
    done = edgegen("docter")
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == f"error[E-USAGE] No such command 'docter'. Did you mean 'doctor'? - {HELP}\n"
    )


def test_an_unknown_flag_is_a_usage_error_in_json_too() -> None:
    done = edgegen("doctor", "--jsn", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "schema_version": 1,
        "ok": False,
        "code": "E-USAGE",
        "exit": 2,
        "message": "No such option: --jsn (Possible options: --json)",
        "path": None,
        "hint": HELP,
        "details": {},
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EdgegenError, 1),
        (errors.UsageError, 2),
        (errors.GateFailed, 3),
        (errors.InputError, 4),
        (errors.ReferenceMismatch, 4),
        (errors.RuntimeMissing, 5),
        (errors.TrustError, 6),
        (errors.ResourceError, 7),
        (errors.Busy, 8),
    ],
)
def test_every_error_class_has_its_exit_code(
    error: type[errors.EdgegenError], code: int, capfd: Captured
) -> None:
    program = raising(
        error("E-X", "it broke", path="a/b.onnx", hint="mend it", details={"low": 1.5})
    )
    assert exit_contract.call(program, ["x"]) == code
    assert capfd.readouterr() == ("", "error[E-X] it broke (a/b.onnx) - mend it\n")
    assert exit_contract.call(program, ["x", "--json"]) == code
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {
        "schema_version": 1,
        "ok": False,
        "code": "E-X",
        "exit": code,
        "message": "it broke",
        "path": "a/b.onnx",
        "hint": "mend it",
        "details": {"low": 1.5},
    }
    assert shown.err == "error[E-X] it broke (a/b.onnx) - mend it\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyError("scale"), 1, f"error[E-BUG] unexpected KeyError: 'scale' - {REPORT}"),
        (
            RuntimeError("two\n  lines"),
            1,
            f"error[E-BUG] unexpected RuntimeError: two lines - {REPORT}",
        ),
        (MemoryError(), 7, MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 7, MEMORY),
        (
            OSError(errno.ENOSPC, "No space left", "out/x"),
            7,
            "error[E-DISK-FULL] cannot write: No space left (out/x)",
        ),
        (typer.BadParameter("no"), 2, f"error[E-USAGE] Invalid value: no - {HELP}"),
    ],
)
def test_foreign_exceptions_become_one_sentence(
    error: Exception, code: int, sentence: str, capfd: Captured
) -> None:
    assert exit_contract.call(raising(error), []) == code
    assert capfd.readouterr() == ("", sentence + "\n")


@pytest.mark.parametrize("flags", [["-vv"], ["export", "-vv"]])
def test_a_traceback_is_shown_only_when_asked_for(flags: list[str], capfd: Captured) -> None:
    seen = []

    def program(arguments: list[str]) -> None:
        seen.append(arguments)
        raise KeyError("scale")

    assert exit_contract.call(program, flags) == 1
    assert "Traceback (most recent call last)" in capfd.readouterr().err
    assert seen == [[flag for flag in flags if flag != "-vv"]]


def test_debug_variable_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    monkeypatch.setenv("EDGEGEN_DEBUG", "1")
    assert exit_contract.call(raising(errors.InputError("E-X", "it broke")), []) == 4
    assert "Traceback" in capfd.readouterr().err


def test_flags_after_two_dashes_are_not_ours(capfd: Captured) -> None:
    seen = []
    assert (
        exit_contract.call(lambda arguments: seen.append(arguments), ["a", "--", "-vv", "--json"])
        == 0
    )
    assert seen == [["a", "--", "-vv", "--json"]]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "EDGEGEN_DEBUGG",
            "1",
            "edgegen knows no environment variable EDGEGEN_DEBUGG - did you mean EDGEGEN_DEBUG?",
        ),
        ("EDGEGEN_DEBUG", "yes", "EDGEGEN_DEBUG must be 0 or 1, not 'yes'"),
    ],
)
def test_environment_variables_are_checked(name: str, value: str, sentence: str) -> None:
    done = edgegen("doctor", "--json", **{name: value})
    assert done.returncode == 2
    assert done.stderr == f"error[E-ENVVAR] {sentence}\n"
    assert json.loads(done.stdout)["code"] == "E-ENVVAR"


def test_json_is_the_only_thing_on_stdout(capfd: Captured) -> None:
    def program(_: list[str]) -> None:
        os.system("echo a native library talks")
        print("a verb talks")
        output.result("x", {"images": 3})

    assert exit_contract.call(program, ["--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"schema_version": 1, "ok": True, "verb": "x", "images": 3}
    assert "a native library talks" in shown.err


def test_a_failure_after_the_result_is_what_counts(capfd: Captured) -> None:
    def program(_: list[str]) -> None:
        output.result("x", {})
        raise errors.GateFailed("E-GATE", "outside the budget")

    assert exit_contract.call(program, ["--json"]) == 3
    assert json.loads(capfd.readouterr().out)["code"] == "E-GATE"


def test_nan_never_reaches_a_document(capfd: Captured) -> None:
    assert exit_contract.call(lambda _: output.result("x", {"fd": float("nan")}), ["--json"]) == 1
    assert json.loads(capfd.readouterr().out)["code"] == "E-BUG"


def slow(*arguments: str) -> subprocess.Popen[str]:
    """A verb that has started and waits."""
    # as a module, as `python -m edgegen` is: Python ends that one in a way of its own
    command = [sys.executable, "-m", "slow_verb", *arguments]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert child.stderr.readline() == "ready\n"
    return child


# while a library is imported, the signal passes through an exec() of that library
@pytest.mark.parametrize("how", ["raise", "swallow", "import"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_cleans_up_and_sets_the_exit_code(
    number: signal.Signals, code: int, how: str
) -> None:
    with slow(how, "--json") as child:
        child.send_signal(number)
        out, err = child.communicate(timeout=50)
    assert child.returncode == code
    assert err == f"cleaned\nerror[E-INTERRUPTED] stopped by {number.name}\n"
    assert json.loads(out)["exit"] == code


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt(int(signal.SIGTERM)), 143)]
)
def test_a_verb_may_handle_the_signal_itself(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Captured,
) -> None:
    """As training does, to finish its step: the exit code is that of the signal, through Typer
    too.
    """

    def wait() -> None:
        raise error

    app = typer.Typer()
    app.command()(wait)
    app.callback()(lambda: None)
    monkeypatch.setattr(main, "app", app)
    assert main.run(["wait"]) == code
    assert (
        capfd.readouterr().err
        == f"error[E-INTERRUPTED] stopped by {signal.Signals(code - 128).name}\n"
    )


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"set -o pipefail; {sys.executable} -m edgegen --help | true"
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 141)
        assert done.stderr == ""


def test_a_second_signal_ends_the_process() -> None:
    with slow("stuck") as child:
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        assert child.stderr.readline() == "cleaned\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=50) == -signal.SIGTERM


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert exit_contract.call(lambda _: None, []) == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_progress_is_silent_when_quick_and_counts_when_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    with output.progress("quick", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(output, "PATIENCE", 0.01)
    with output.progress("photos", 4) as advance:
        advance(1)
        time.sleep(0.2)
        advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "photos: 1/4 (0 s)\nphotos: 4/4 (0 s)\n"


def test_a_table_without_a_terminal_is_plain_and_never_wraps(capsys: Captured) -> None:
    output.table(["file", "why"], [["shop[/2024].jpg", "x" * 200]])
    assert (
        capsys.readouterr().out
        == f"file             why\n---------------  {'-' * 200}\nshop[/2024].jpg  {'x' * 200}\n"
    )
