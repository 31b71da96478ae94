"""Run the ONNX reference evaluator: it is slow, plain numpy, and shares no code with the runtimes
that it referees.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import RuntimeMissing

from .packages import FileRuntime


class OnnxReference(FileRuntime):
    """Execute any dialect; its own is the plainest."""

    name = "reference"
    dialect = Dialect()
    module, extra = "onnx", "export"
    packages = ("onnx",)

    def session(self, file: GraphFile, threads: int) -> Session:
        if why := self.cannot_run():
            raise RuntimeMissing("E-BACKEND", why)
        import onnx
        from onnx.reference import ReferenceEvaluator

        if file.weights is None:
            return _ReferenceSession(ReferenceEvaluator(onnx.load_from_string(file.data())))
        with file.placed() as path:
            return _ReferenceSession(ReferenceEvaluator(onnx.load(str(path))))


class _ReferenceSession:
    def __init__(self, evaluator: Any) -> None:
        self._evaluator, self._lock = evaluator, threading.Lock()

    def __call__(self, **inputs: Array) -> Array:
        # its Sigmoid divides infinities in a branch that it then discards
        with self._lock, np.errstate(over="ignore", invalid="ignore"):
            out: Array = self._evaluator.run(None, inputs)[0]
        return out
