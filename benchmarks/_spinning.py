"""ONNX Runtime whose threads spin. A module of its own, since files that nobody vouches for are
tried in a process that imports the runtime by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edgegen.export.ort import OnnxRuntime


class Spinning(OnnxRuntime):
    """Its threads wait for work without giving up the processor, as ONNX Runtime has it."""

    settings: ClassVar[Mapping[str, str]] = {
        **OnnxRuntime.settings,
        "session.intra_op.allow_spinning": "1",
    }
