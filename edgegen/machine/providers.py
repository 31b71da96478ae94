"""Find on which of ONNX Runtime's providers a session really runs; the package only lists what it
was built for.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..core.offline import quietly
from .probe import TINY

CPU = "CPUExecutionProvider"
RAN = "ran"
CAUSE = re.compile(r"with error: (.+)")  # in its log, which alone names the missing library


def tried(folder: Path) -> dict[str, str]:
    """Return for each provider "ran", or why no session runs on it."""
    ort = quietly("onnxruntime")
    file = folder / "tiny.onnx"
    file.write_bytes(TINY)
    return {name: _tried(ort, file, name) for name in ort.get_available_providers()}


def _tried(ort: Any, file: Path, provider: str) -> str:
    import numpy as np

    options = ort.SessionOptions()
    if provider != CPU:
        # without this, the CPU would run it
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    with _native_log() as log:
        try:
            session = ort.InferenceSession(str(file), options, providers=[provider])
            first, (y,) = session.get_providers()[0], session.run(None, {"x": x})
        except Exception as error:  # the exceptions of ONNX Runtime share no base class
            log.seek(0)
            cause = CAUSE.search(log.read())
            return cause[1] if cause else " ".join(str(error).split())[:300]
    if first != provider:
        return f"the session ran on {first}"
    return (
        RAN
        if np.array_equal(y, x + x)
        else f"ran, but 2 x [0, 1, 2, 3] came out as {np.ravel(y).tolist()}"
    )


@contextmanager
def _native_log() -> Iterator[IO[str]]:
    """Yield a file with everything that is written to file descriptor 2 during the block."""
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(kept, 2)
            os.close(kept)
