"""Keep the contract around every verb: exit codes, one sentence on stderr, the --json failure
document, signals and variables.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Any

import typer

from ..errors import EdgegenError, InputError, ResourceError, UsageError
from . import output, streams

# Every variable of edgegen with its meaning; any other EDGEGEN_ name is refused.
ENVIRONMENT = {
    "EDGEGEN_CACHE": "folder for files that may be deleted at any time (default: ~/.cache/edgegen)",
    "EDGEGEN_DEBUG": "1 shows the traceback of an error",
}
DEBUG_FLAG = "-vv"
LONGEST = 200  # characters of a name that are shown
GRACE = 8.0  # seconds; containers are killed after 10


class Stopped(KeyboardInterrupt):
    """Carry an interruption to its exit code.

    It is a class of its own because once a KeyboardInterrupt itself has passed through an exec(),
    as in an import, Python ends the process by SIGINT whatever the code.
    """


def call(program: Callable[[list[str]], object], arguments: Sequence[str]) -> int:
    """Run `program` on the arguments and return the exit code; no exception leaves this function,
    whatever the state of the standard streams.

    `program` takes the arguments, returns an exit code or None, and may raise EdgegenError or
    Typer's exceptions.
    """
    with streams.patient() as settled:
        return settled(_call(program, arguments))


def _call(program: Callable[[list[str]], object], arguments: Sequence[str]) -> int:
    arguments, rest = _split(arguments)
    debug = DEBUG_FLAG in arguments or os.environ.get("EDGEGEN_DEBUG") == "1"
    arguments = [a for a in arguments if a != DEBUG_FLAG]
    received: list[int] = []
    with output.document("--json" in arguments) as write:
        failure: EdgegenError | None = None
        code = 0
        try:
            check_environment()
            with _signals(received):
                result = program([*arguments, *rest])
            code = result if isinstance(result, int) else 0
        except typer.Exit as done:
            code = done.exit_code
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else int(done.code is not None)
        # a verb that waits for the end of a step names the signal itself
        except KeyboardInterrupt as stop:
            received.append(stop.args[0] if stop.args else signal.SIGINT)
        except BaseException as error:
            failure = _sentence(error)
            if debug:
                traceback.print_exc()
        if received:  # an interruption counts, whatever error it was turned into
            name = signal.Signals(received[0]).name
            failure, code = EdgegenError("E-INTERRUPTED", f"stopped by {name}"), 128 + received[0]
        elif failure is not None:
            code = failure.exit_code
        if failure is not None:
            print(failure, file=sys.stderr)
            write(_document(failure, code))
        return code


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at `--`: what stands before it (where flags are), and the rest."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:end]), list(arguments[end:])


def _sentence(error: BaseException) -> EdgegenError:
    """Turn any exception into the error that is reported."""
    if isinstance(error, EdgegenError):
        return error
    if isinstance(error, typer.TyperException):
        message = error.format_message().rstrip(".")
        return UsageError(
            "E-USAGE",
            message,
            hint="`edgegen --help` lists the verbs, `edgegen VERB --help` its flags",
        )
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    ):
        return ResourceError("E-OOM", "not enough memory", hint="use a smaller batch")
    if isinstance(error, OSError) and (refused := _refused(error)) is not None:
        return refused
    what = " ".join(str(error).split())  # some libraries' messages span many lines
    return EdgegenError(
        "E-BUG",
        f"unexpected {type(error).__name__}: {what[:500] or 'no message'}",
        hint=f"add {DEBUG_FLAG} to see where, and report it",
    )


def _refused(error: OSError) -> EdgegenError | None:
    """Return an error for a file that cannot be used or a resource that has run out, as the
    operating system reports it; None for any other OSError.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError("E-DISK-FULL", f"cannot write: {error.strerror}", path=error.filename)
    if error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return ResourceError(
            "E-OOM",
            f"the operating system has run out of a resource: {error.strerror}",
            hint="close other programs",
        )
    if not isinstance(error.filename, str | bytes):
        return None
    name = os.fsdecode(error.filename)
    return InputError(
        "E-FILE",
        f"a file cannot be used: {error.strerror}",
        path=name if len(name) <= LONGEST else f"{name[:LONGEST]}... ({len(name)} letters)",
    )


def _document(error: EdgegenError, code: int) -> dict[str, object]:
    return {
        "schema_version": output.SCHEMA_VERSION,
        "ok": False,
        "code": error.code,
        "exit": code,
        "message": error.message,
        "path": error.path,
        "hint": error.hint,
        "details": dict(error.details),
    }


def check_environment() -> None:
    """Raise UsageError for an EDGEGEN_ variable that edgegen does not know, or a value that it does
    not accept.
    """
    for name in sorted(os.environ):
        if name.startswith("EDGEGEN_") and name not in ENVIRONMENT:
            close = get_close_matches(name, ENVIRONMENT, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(ENVIRONMENT)}"
            raise UsageError("E-ENVVAR", f"edgegen knows no environment variable {name}", hint=hint)
    if (value := os.environ.get("EDGEGEN_DEBUG", "")) not in ("", "0", "1"):
        raise UsageError("E-ENVVAR", f"EDGEGEN_DEBUG must be 0 or 1, not {value!r}")


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise KeyboardInterrupt, so that every `finally`
    runs.

    A second one ends the process, and so does the first after GRACE seconds: its sender will not
    wait longer, and the next run removes what is left behind. Python's default for SIGTERM runs no
    `finally`. Signals that the parent told us to ignore (nohup) stay ignored.
    """
    before: dict[int, Any] = {}
    last = list[threading.Timer]()

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        last.append(threading.Timer(GRACE, os.kill, (os.getpid(), number)))
        last[0].daemon = True
        last[0].start()
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for timer in last:
            timer.cancel()
        for other, handler in before.items():
            signal.signal(other, handler)
