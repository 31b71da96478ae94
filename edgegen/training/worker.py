"""Decoding of photos in a child process, so that a crash, a decompression bomb or an endless loop
costs one photo and not the run. If something else ends a decoder, no photo is blamed.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import TracebackType

from ..errors import EdgegenError, ResourceError, RuntimeMissing
from .photos import BadPhoto, Decoded, Span, Want, decode

SECONDS = 60.0  # time limit of one photo; 64 MP take about 2 s
LAST_SECONDS = 5.0  # longest wait for a child to end after its last output
MEMORY = 4 << 30
READY = b"ready\n"
ATTEMPTS = 2  # decoders that may end on one photo before it, or the machine, is blamed
# Signals that end native code on data it cannot handle; any other end has an outside cause.
CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP)
)
# The child gets this process's import path, so that it finds edgegen installed or not; with -c it
# does not run the caller's __main__.
CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edgegen.training.worker "
    "import serve; serve(sys.argv[2])"
)


class DecoderProcess:
    """A context manager that runs decode() of photos.py in a child process, which is started when
    needed and restarted when it dies.
    """

    def __init__(self, want: Want, seconds: float = SECONDS) -> None:
        self.want, self.seconds = want, seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, path: str, span: Span | None = None) -> Decoded:
        """Decode a photo in the child.

        span: the place of the photo in the file, if it is not the whole file. BadPhoto also for a
        file that crashes or hangs the decoder; ResourceError if something else ends the decoder
        ATTEMPTS times.
        """
        ends: list[int] = []
        while len(ends) < ATTEMPTS:
            child = self._child = self._child or self._start()
            try:
                return self._ask(child, path, span)
            except (EOFError, BrokenPipeError):
                if self._closed:
                    raise
                ends.append(self._end())
        if all(-code in CRASHES for code in ends):
            raise BadPhoto("E-IMG-CORRUPT", f"the decoder crashed on it, {ATTEMPTS} times")
        raise ResourceError(
            "E-DECODER",
            f"the photo decoder {' and again '.join(map(_said, ends))}, though not by the photo",
            path=path,
            hint=f"free memory (a decoder may take {MEMORY >> 30} GiB), then run it again",
        )

    def close(self) -> None:
        """Kill the child, even if another thread waits for its answer."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()

    def _ask(self, child: subprocess.Popen[bytes], path: str, span: Span | None) -> Decoded:
        """Ask the child to decode. EOFError or BrokenPipeError if it ends in the meantime."""
        try:
            assert child.stdin and child.stdout
            child.stdin.write(json.dumps([path, span]).encode() + b"\n")
            child.stdin.flush()
            answer = json.loads(_line(child.stdout.fileno(), time.monotonic() + self.seconds))
            if "code" in answer:
                raise BadPhoto(answer["code"], answer["reason"])
            pixels = _exactly(
                child.stdout.fileno(), self.want.size**2 * 3, time.monotonic() + self.seconds
            )
            return Decoded(pixels, answer["warnings"], tuple(answer["shape"]))
        except TimeoutError as error:
            self._stop()
            raise BadPhoto(
                "E-IMG-TIME", f"decoding took longer than {self.seconds:.0f} s"
            ) from error

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CODE, json.dumps(sys.path), json.dumps(asdict(self.want))]
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:  # no memory, or no more processes
            raise ResourceError(
                "E-DECODER", f"the photo decoder cannot be started: {error.strerror}"
            ) from error
        self._child = child
        assert child.stdout
        try:
            if _line(child.stdout.fileno(), time.monotonic() + SECONDS) + b"\n" == READY:
                return child
        except (EOFError, TimeoutError):
            pass
        raise _not_started(self._end())

    def _end(self) -> int:
        """Return the exit code of a child that has ended or is about to end."""
        child = self._child
        assert child is not None
        try:
            return child.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return 0
        finally:
            self._stop()

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _said(code: int) -> str:
    """Return a phrase that says how a process ended."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _not_started(code: int) -> EdgegenError:
    if code < 0:
        return ResourceError("E-DECODER", f"the photo decoder {_said(code)} while it started")
    return RuntimeMissing(
        "E-DECODER",
        "the photo decoder did not start",
        hint=f"try: {sys.executable} -c 'import PIL.Image'",
    )


def _some(fd: int, count: int, deadline: float) -> bytes:
    ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        raise TimeoutError
    if not (data := os.read(fd, count)):
        raise EOFError
    return data


def _line(fd: int, deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _some(fd, 1, deadline)  # one byte at a time, because pixels follow the line
    return line[:-1]


def _exactly(fd: int, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        data += _some(fd, count - len(data), deadline)
    return data


def serve(want: str) -> None:
    """Run the child: read paths and spans as JSON lines, and answer each with a JSON line and
    pixels, until the parent closes the pipe.
    """
    from PIL import Image

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _, most = resource.getrlimit(resource.RLIMIT_AS)  # keep a lower limit set by the user
    memory = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # photos.py has its own limits and messages
    fields = json.loads(want)
    wanted = Want(**{**fields, "background": tuple(fields["background"])})
    out = sys.stdout.buffer
    out.write(READY)
    out.flush()
    for line in sys.stdin.buffer:
        try:
            path, span = json.loads(line)
            decoded = decode(path, wanted, span and Span(*span))
            out.write(
                json.dumps({"warnings": decoded.warnings, "shape": decoded.shape}).encode()
                + b"\n"
                + decoded.pixels
            )
        except BadPhoto as bad:
            out.write(json.dumps({"code": bad.code, "reason": bad.reason}).encode() + b"\n")
        out.flush()
