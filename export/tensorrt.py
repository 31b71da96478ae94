"""Build for TensorRT and TensorRT-RTX with one builder: strongly typed networks, with precision
written in the graph as Q/DQ.

TensorRT-RTX engines are built ahead of time without a GPU, one file for each compute capability;
executing one needs a GPU and its driver.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.core.temporary import scratch
from edgegen.core.weight_file import located, write_model
from edgegen.errors import EdgegenError, RuntimeMissing

from . import cache
from .check import CHECKER, checked
from .engine import BATCHES, engines, logger_of
from .packages import FileRuntime, absent

TURING = "SM75"


class TensorRt(FileRuntime):
    """Run the enterprise library. It builds for the GPU that it runs on, so a bundle holds its Q/DQ
    ONNX and the device keeps the engine.

    Its files have int8 with zero point 0, a float bias, constant per-channel int8 weights, and Q/DQ
    before each convolution but not behind; what is not int8 is float16, which its GPUs multiply at
    many times the speed of float32.
    """

    name = "tensorrt"
    tried_on: ClassVar[str] = CHECKER  # the real parser runs in a process of its own (engine.py)
    dialect = Dialect(activation="int8", symmetric=True, floats="float16")
    module = extra = "tensorrt"
    packages: ClassVar[tuple[str, ...]] = ("tensorrt",)
    here: ClassVar[str] = ""  # the builder's name for the GPU at hand
    # whether it measures kernels while it builds and can keep the times
    timed: ClassVar[bool] = True

    def missing(self) -> str | None:
        """Return None: a bundle's files for it are ONNX, which can be written on any machine."""
        return None

    def cannot_run(self) -> str | None:
        return absent(self.module, self.extra) or _no_gpu()

    def device(self) -> str:
        return "GPU"

    def compiled(self, onnx: GraphFile) -> Path | None:
        return cache.find(cache.of(onnx, self._facts()))

    def compile(self, onnx: GraphFile) -> Path:
        """Build the engine for this GPU, driver and version, and store it in the cache.

        Raises RuntimeMissing if TensorRT cannot run here.
        """
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        facts = cache.of(onnx, self._facts())
        (engine,) = self._engines(onnx, (self.here,))
        return cache.store(facts, engine)

    def _engines(self, onnx: GraphFile, capabilities: tuple[str, ...]) -> list[bytes]:
        """Build an engine for each compute capability. Raises EdgegenError, which names the node,
        if the parser or the builder refuses one.
        """
        return self._built(onnx, checked(onnx)[0], capabilities)

    def _built(self, onnx: GraphFile, data: bytes, capabilities: tuple[str, ...]) -> list[bytes]:
        """Build the engines; one for the GPU here reuses the kernel times that earlier builds
        measured, if this library keeps any.
        """
        times = self.here in capabilities and self.timed
        with scratch() as folder:
            timing = self._known_times(folder / "times") if times else None
            beside = None if onnx.weights is None else onnx.put_weights
            built = engines(self.module, data, capabilities, timing=timing, beside=beside)
            if timing is not None and not isinstance(built, tuple):
                cache.store(self._times(), timing.read_bytes())
        if isinstance(built, tuple):
            raise EdgegenError(
                *built, path=onnx.path, hint="edgegen lint says what its runtimes refuse of a graph"
            )
        return built

    def _times(self) -> dict[str, str]:
        """Return what the times of kernels depend on."""
        facts = self._facts()
        return {"runtime": self.name, "times": "kernels", "gpu": facts["gpu"]}

    def _known_times(self, path: Path) -> Path:
        known = cache.find(self._times())
        path.write_bytes(b"" if known is None else cache.read(known))
        return path

    def _facts(self) -> dict[str, str]:
        """Return everything except the ONNX file that decides whether an engine fits."""
        return {"runtime": self.name, "version": self.version(), "batches": str(BATCHES), **_gpu()}

    def load(self, built: Path, threads: int) -> Session:
        """Load an engine from the cache, or any other file."""
        if built.suffix != cache.SUFFIX:
            return super().load(built, threads)
        self._check()
        return _TensorRtSession(import_module(self.module), cache.read(built), built)

    def session(self, file: GraphFile, threads: int) -> Session:
        """Load an ONNX file, whose engine is built here if it is missing."""
        self._check()
        return self.load(self.compiled(file) or self.compile(file), threads)

    def _check(self) -> None:
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)


class TensorRtRtx(TensorRt):
    """Build engines for each capability listed here, on any machine, and ship them in the
    bundle.
    """

    name = extra = "tensorrt-rtx"
    module = "tensorrt_rtx"
    executable = True
    suffixes: tuple[str, ...] = (".engine",)
    packages: ClassVar[tuple[str, ...]] = ("tensorrt_rtx_cu13", "tensorrt_rtx", "tensorrt_rtx_cu12")
    capabilities: ClassVar[tuple[str, ...]] = (TURING, "SM80", "SM86", "SM89", "SM120")
    here, timed = "CURRENT", False

    def missing(self) -> str | None:
        return absent(self.module, self.extra)

    def cannot_run(self) -> str | None:
        if why := super().cannot_run():
            return why
        here = _capability()
        known = ", ".join(self.capabilities)
        return (
            None
            if here in self.capabilities
            else f"engines are built for {known}, and the GPU of this machine is {here}"
        )

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        if why := self.missing():
            raise RuntimeMissing("E-BACKEND", why)
        paths = []
        made = self._engines(GraphFile.made_here(onnx), self.capabilities)
        for capability, engine in zip(self.capabilities, made, strict=True):
            paths.append(folder / f"{onnx.stem}.{capability}.engine")
            paths[-1].write_bytes(engine)
        return tuple(paths)

    def _engines(self, onnx: GraphFile, capabilities: tuple[str, ...]) -> list[bytes]:
        """Build engines; those for Turing GPUs come from a graph without matrix products."""
        # imported here, because a device that executes finished engines has no onnx
        from .turing import without_products

        data, model = checked(onnx)
        here = self._facts().get("capability") if self.here in capabilities else ""
        old = tuple(c for c in capabilities if TURING in (c, here))
        new = tuple(c for c in capabilities if c not in old)
        engines = dict(zip(new, self._built(onnx, data, new), strict=True)) if new else {}
        if old:
            with onnx.placed() as path, scratch() as folder:
                products = folder / onnx.path.name
                write_model(without_products(located(model, path.parent)), products)
                file = GraphFile.made_here(products)
                engines |= zip(old, self._built(file, file.data(), old), strict=True)
        return [engines[c] for c in capabilities]

    def session(self, file: GraphFile, threads: int) -> Session:
        """Load the engine beside `file` that fits this GPU, or build one here from an ONNX file.
        Raises RuntimeMissing if there is none.
        """
        self._check()
        if file.path.suffix != ".engine":
            return super().session(file, threads)
        fitting = f"{file.path.name.rsplit('.', 2)[0]}.{_capability()}.engine"
        engine = file.read(fitting)
        if engine is None:
            raise RuntimeMissing(
                "E-ENGINE-VERSION",
                f"there is no engine for this GPU: {fitting}",
                path=file.path.parent,
                hint="run edgegen build",
            )
        return _TensorRtSession(import_module(self.module), engine, file.path.with_name(fitting))


class TensorRtHalf(TensorRt):
    """Run the same library without INT8, which INT8 must beat."""

    name = "tensorrt-fp16"
    dialect = Dialect(int8_ops=frozenset(), floats="float16")


class TensorRtRtxHalf(TensorRtRtx):
    """Run the same library without INT8, which INT8 must beat."""

    name = "tensorrt-rtx-fp16"
    dialect = Dialect(int8_ops=frozenset(), floats="float16")


def _no_gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return (
            "no CUDA device can be reached: PyTorch, which holds the device memory, is not "
            "installed"
        )
    return None if torch.cuda.is_available() else "no CUDA device on this machine"


def _capability() -> str:
    """Return the capability of the GPU at hand, such as "SM89"."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def _gpu() -> dict[str, str]:
    import torch

    driver = Path("/proc/driver/nvidia/version")
    driver_version = driver.read_text(errors="replace").splitlines()[0] if driver.is_file() else ""
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": _capability(),
        "driver": driver_version,
    }


class _TensorRtSession:
    """Run an engine with torch tensors as device memory, one call at a time."""

    def __init__(self, trt: Any, data: bytes, built: Path) -> None:
        import torch

        self._torch, self._lock = torch, threading.Lock()
        runtime = trt.Runtime(logger_of(trt))
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise RuntimeMissing(
                "E-ENGINE-VERSION",
                "this engine was built by another version or for another GPU",
                path=built,
                hint="run edgegen build on this machine",
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._layers = engine.num_layers
        self._output = next(
            n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT
        )

    def __call__(self, **inputs: Array) -> Array:
        with self._lock:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Array]) -> Array:
        torch = self._torch
        held = {k: torch.from_numpy(np.ascontiguousarray(v)).cuda() for k, v in inputs.items()}
        for name, tensor in held.items():
            self._context.set_input_shape(name, tuple(tensor.shape))
            self._context.set_tensor_address(name, tensor.data_ptr())
        out = torch.empty(tuple(self._context.get_tensor_shape(self._output)), device="cuda")
        self._context.set_tensor_address(self._output, out.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EdgegenError("E-TRT-RUN", "TensorRT could not execute the engine")
        torch.cuda.current_stream().synchronize()
        result: Array = out.cpu().numpy()
        return result

    def placement(self) -> dict[str, int]:
        """Return the layers on TensorRT: an engine runs whole on its GPU."""
        return {"TensorRT": self._layers}
