"""Test whether a runtime works here: it builds, loads and runs one tiny graph, in a process of its
own, so that a crash is an answer too.
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EdgegenError

if TYPE_CHECKING:
    from ..core.runtime import Runtime

Finding = dict[str, str]

# y = x + x for x (1, 1, 2, 2), IR 8, opset 17: stored as bytes because a device has no onnx package
# (a test compares it with onnx's).
TINY = b64decode(
    "CAg6UAoOCgF4CgF4EgF5IgNBZGQSBHRpbnlaGwoBeBIWChQIARIQCgIIAQoC"
    "CAEKAggCCgIIAmIbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAIKAggCQgQKABAR"
)


def probe(runtime: Runtime, folder: Path) -> Finding:
    """Return state, version, device and reason of a runtime.

    The states are "ok" (it ran the graph correctly), "builds" (it only builds for other machines),
    "missing" and "failed".
    """
    import numpy as np

    from ..core.runtime import NOT_INSTALLED

    found = {"version": runtime.version(), "device": runtime.device(), "why": ""}
    # a runtime may write its files without its package
    why = runtime.missing() or (runtime.cannot_run() if found["version"] == NOT_INSTALLED else None)
    if why:
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
    # a library may raise any error, and doctor goes on with the next runtime
    except Exception as error:
        return {
            **found,
            "state": "failed",
            "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        }
    if not np.array_equal(y, x + x):
        return {
            **found,
            "state": "failed",
            "why": f"ran, but 2 x [0, 1, 2, 3] came out as {np.ravel(y).tolist()}",
        }
    return {**found, "state": "ok"}
