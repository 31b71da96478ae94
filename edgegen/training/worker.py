"""Photos are decoded in a child process: a crash, a bomb or an endless loop in a decoder costs one
photo, not the run.
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

from ..errors import EdgegenError
from .photos import BadPhoto, Decoded, Want, decode

SECONDS = 60.0  # one photo; 64 MP take about 2 s
MEMORY = 4 << 30
READY = b"ready\n"
# The child finds edgegen as this process does, installed or not; -c keeps the caller's own __main__
# out of it.
CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edgegen.training.worker "
    "import serve; serve(sys.argv[2])"
)


class DecoderProcess:
    """decode() of photos.py in a child that is started when needed and started again when it dies.
    A context manager.
    """

    def __init__(self, want: Want, seconds: float = SECONDS) -> None:
        self.want, self.seconds = want, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def __call__(self, path: str, span: tuple[int, int] | None = None) -> Decoded:
        """decode()'s answer. Raises BadPhoto, also for a file that kills or hangs the decoder.

        span: offset and length of the photo within the file, if it is not the whole of it.
        """
        child = self._child = self._child or self._start()
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
        except (EOFError, BrokenPipeError) as error:
            self._stop()
            raise BadPhoto("E-IMG-CORRUPT", "the decoder crashed on it") from error

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CODE, json.dumps(sys.path), json.dumps(asdict(self.want))]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._child = child
        assert child.stdout
        try:
            if _line(child.stdout.fileno(), time.monotonic() + SECONDS) + b"\n" == READY:
                return child
        except (EOFError, TimeoutError):
            pass
        self._stop()
        raise EdgegenError(
            "E-DECODER",
            "the photo decoder did not start",
            hint=f"try: {sys.executable} -c 'import PIL.Image'",
        )

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


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
        line += _some(fd, 1, deadline)  # one byte at a time: what follows the line is pixels
    return line[:-1]


def _exactly(fd: int, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        data += _some(fd, count - len(data), deadline)
    return data


def serve(want: str) -> None:
    """The child: paths and spans as JSON lines in, a JSON line and pixels out, until the parent
    closes the pipe.
    """
    from PIL import Image

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # photos.py has its own, lower limit, with a sentence
    fields = json.loads(want)
    wanted = Want(fields["size"], tuple(fields["background"]), fields["min_side"], fields["fit"])
    out = sys.stdout.buffer
    out.write(READY)
    out.flush()
    for line in sys.stdin.buffer:
        try:
            path, span = json.loads(line)
            decoded = decode(path, wanted, span)
            out.write(
                json.dumps({"warnings": decoded.warnings, "shape": decoded.shape}).encode()
                + b"\n"
                + decoded.pixels
            )
        except BadPhoto as bad:
            out.write(json.dumps({"code": bad.code, "reason": bad.reason}).encode() + b"\n")
        out.flush()
