"""Run graphs in OpenVINO on the CPU, always with its precision hint (bf16 is its default and
changes results) and without its telemetry.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgegen.core.cpu import weight_bits
from edgegen.core.graph_file import GraphFile
from edgegen.core.offline import quietly
from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import InputError, RuntimeMissing

from . import cache
from .openvino_halves import held_in_half
from .openvino_layout import vectors_as_pixels
from .packages import FileRuntime, processor

IR = ".xml"  # OpenVINO's own format, with weights in a file NAME.bin
REASON = re.compile(r"No conversion rule found for operations: .*")
# such as "Reshape_49", which comes from a counter of this process and does not repeat
COUNTED = re.compile(r"[A-Z][A-Za-z]*_[0-9]+")


def _openvino() -> Any:
    return quietly("openvino")


@functools.cache
def _core() -> Any:
    """Return the one Core of the process, which is never destroyed.

    On processors with AMX each Core swaps the thread's signal stack, and two that end in the order
    in which they began leave it pointing at freed memory, so that the next Ctrl-C is a segmentation
    fault.
    """
    return _openvino().Core()


class OpenVino(FileRuntime):
    """Use unsigned activations, because signed ones behind a Concat give wrong results on the CPU
    plug-in. Outputs stay in float.
    """

    name = "openvino"
    dialect = Dialect(
        activation="uint8",
        symmetric=False,
        weight_bits=weight_bits(),
        phases=True,
        stored="float16",
    )
    suffixes: tuple[str, ...] = (IR, ".onnx")
    module, extra = "openvino", "openvino"
    packages = ("openvino",)

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        """Convert to OpenVINO's own format, model.xml and model.bin, so that a device does not
        parse ONNX.

        Raises RuntimeMissing without OpenVINO, InputError for a model that it cannot convert.
        """
        if why := self.missing():
            raise RuntimeMissing("E-BACKEND", why)
        ov = _openvino()
        target = folder / f"{onnx.stem}.xml"
        try:
            model = ov.convert_model(str(onnx))
        except Exception as error:  # the exceptions of OpenVINO share no base class
            reason = REASON.search(str(error))
            what = reason[0] if reason else str(error).splitlines()[0]
            raise InputError(
                "E-ONNX-PARSE", f"OpenVINO cannot convert it: {what}", path=onnx
            ) from error
        for place, op in enumerate(model.get_ordered_ops()):
            if COUNTED.fullmatch(op.get_friendly_name()):
                op.set_friendly_name(f"{op.get_type_name()}.{place}")
        if self.dialect.stored == "float16":
            held_in_half(model, ov)
        ov.save_model(model, str(target), compress_to_fp16=False)
        return target, target.with_suffix(".bin")

    def compiled(self, onnx: GraphFile) -> Path | None:
        return cache.find(cache.of(onnx, self._facts()))

    def compile(self, onnx: GraphFile) -> Path:
        """Compile the model with the CPU plug-in and keep the result in the cache; reading it takes
        a fifth of the time of compiling.
        """
        made = self._compiler(onnx, 1)()
        return cache.store(cache.of(onnx, self._facts()), made.export_model().getvalue())

    def _facts(self) -> dict[str, str]:
        return {"runtime": self.name, "version": self.version(), "processor": processor()}

    def load(self, built: Path, threads: int) -> Session:
        if built.suffix != cache.SUFFIX:
            return super().load(built, threads)
        self._check()
        blob = cache.read(built)

        def compiled() -> Any:
            with _refused(built):
                return _core().import_model(io.BytesIO(blob), "CPU", self._config(threads))

        return _OpenVinoSession(compiled)

    def session(self, file: GraphFile, threads: int) -> Session:
        self._check()
        return _OpenVinoSession(self._compiler(file, threads))

    def _check(self) -> None:
        if why := self.cannot_run():
            raise RuntimeMissing("E-BACKEND", why)

    def _config(self, threads: int) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }

    def _compiler(self, file: GraphFile, threads: int) -> Callable[[], Any]:
        """Read the file now, once, and return a call that compiles it."""
        weights = file.read(f"{file.path.stem}.bin") if file.path.suffix == IR else None
        with _refused(file.path):
            if file.weights is None:
                model = _core().read_model(file.data(), weights or b"")
            else:  # the mapped file stays readable after its name is removed
                with file.placed() as path:
                    model = _core().read_model(str(path))
            vectors_as_pixels(model, _openvino())

        def compiled() -> Any:
            with _refused(file.path):
                return _core().compile_model(model, "CPU", self._config(threads))

        return compiled


@contextlib.contextmanager
def _refused(built: Path) -> Iterator[None]:
    """Turn OpenVINO's own error into an InputError that names the file."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "E-OV-LOAD", f"OpenVINO cannot load it: {str(error).splitlines()[0]}", path=built
        ) from error


class _OpenVinoSession:
    """Run a compiled model, which takes one call at a time: simultaneous calls get a request each,
    made when first needed and kept.
    """

    def __init__(self, compiler: Callable[[], Any]) -> None:
        self._compiler, self._lock = compiler, threading.Lock()
        self._compiled = compiler()
        self._idle = deque([self._compiled.create_infer_request()])

    def __call__(self, **inputs: Array) -> Array:
        try:
            request = self._idle.pop()
        except IndexError:
            with self._lock:
                request = self._compiler().create_infer_request()
        try:
            result = request.infer(
                {k: np.ascontiguousarray(v) for k, v in inputs.items()}, share_inputs=True
            )
            out: Array = next(iter(result.values())).copy()
        finally:
            self._idle.append(request)
        return out

    def placement(self) -> dict[str, int]:
        """Return the operators of the compiled model by device; here one device name stands for all
        of them.
        """
        devices = self._compiled.get_property("EXECUTION_DEVICES")
        return {"+".join(devices): len(self._compiled.get_runtime_model().get_ops())}
