"""Does a runtime work here? It builds, loads and runs one tiny graph, in a process of its own: a crash is an answer too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EdgegenError

if TYPE_CHECKING:
    from ..core.runtime import Runtime

LIMIT = 120  # seconds one runtime may take
Finding = dict[str, str]

# y = x + x for x (1, 1, 2, 2), IR 8, opset 17: written out since a device has no onnx package (a test compares it with onnx's).
TINY = b64decode(
    "CAg6UAoOCgF4CgF4EgF5IgNBZGQSBHRpbnlaGwoBeBIWChQIARIQCgIIAQoC"
    "CAEKAggCCgIIAmIbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAIKAggCQgQKABAR"
)


def probe(runtime: Runtime, folder: Path) -> Finding:
    """state, version, device, why.

    States: "ok" ran the graph and got it right, "builds" only builds for other machines, "missing", "failed".
    """
    import numpy as np

    found = {"version": runtime.version(), "device": runtime.device(), "why": ""}
    if why := runtime.missing():
        return {**found, "state": "missing", "why": why}
    file = folder / "tiny.onnx"
    file.write_bytes(TINY)
    (built := folder / "built").mkdir()
    try:
        paths = runtime.build(file, built)
        if why := runtime.cannot_run():
            return {**found, "state": "builds", "why": why}
        x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
        y = runtime.load(paths[0], 1)(x=x)
    except EdgegenError as error:
        return {**found, "state": "failed", "why": str(error)}
    except Exception as error:  # a library's own: anything may come, and doctor goes on to the next runtime
        return {**found, "state": "failed", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    if not np.array_equal(y, x + x):
        return {**found, "state": "failed", "why": f"ran, but 2 x [0, 1, 2, 3] came out as {np.ravel(y).tolist()}"}
    return {**found, "state": "ok"}


def isolated(name: str) -> Finding:
    """The probe of the runtime of that name, run in a child process with a time limit."""
    with tempfile.TemporaryDirectory(prefix="edgegen-probe-") as folder:
        command = [sys.executable, "-P", "-c", _CHILD, name, folder, *sys.path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return _broken(f"no answer within {LIMIT} s")
    if done.returncode < 0:
        return _broken(f"the process crashed with {signal.Signals(-done.returncode).name}")
    try:
        finding: Finding = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or ["no output"]
        return _broken(f"the process ended with {done.returncode}: {lines[-1]}")
    return finding


# The child looks for modules where this process does: with -m it would also take a user's own json.py from the working folder.
_CHILD = "import sys; sys.path[:] = sys.argv[3:]; from edgegen.cli.probe import child; child(sys.argv[1], sys.argv[2])"


def child(name: str, folder: str) -> None:
    """Prints the finding as one line of JSON."""
    from edgegen.export import runtime

    print(json.dumps(probe(runtime(name), Path(folder))))


def _broken(why: str) -> Finding:
    return {"version": "", "device": "", "state": "failed", "why": why}
