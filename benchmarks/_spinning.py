"""Define ONNX Runtime with spinning threads. It is a module of its own, because files that nobody
vouches for are tried in a process that imports the runtime by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgegen.export.ort import OnnxRuntime


class Spinning(OnnxRuntime):
    """Let threads wait for work without giving up the processor, which is ONNX Runtime's
    default.
    """

    settings: ClassVar[Mapping[str, str]] = {
        **OnnxRuntime.settings,
        "session.intra_op.allow_spinning": "1",
    }
