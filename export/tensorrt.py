"""TensorRT and TensorRT-RTX through one builder: strongly typed networks, precision written in the
graph as Q/DQ.

TensorRT-RTX engines are built ahead of time without a GPU, one file a compute capability; executing
one needs a GPU and driver.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import EdgegenError, RuntimeMissing

from . import cache
from .check import checked
from .engine import BATCHES, engines, logger_of
from .packages import FileRuntime, absent

TURING = "SM75"


class TensorRt(FileRuntime):
    """The enterprise library. It builds for the GPU it runs on, so a bundle holds its Q/DQ ONNX and
    the device keeps the engine.

    int8 with zero point 0, float bias, constant per-channel int8 weights, Q/DQ in front of each
    convolution and none behind; what is not int8 is float16, which its GPUs multiply at many times
    the speed of float32.
    """

    name = "tensorrt"
    dialect = Dialect(activation="int8", symmetric=True, floats="float16")
    module = extra = "tensorrt"
    packages: ClassVar[tuple[str, ...]] = ("tensorrt",)
    here: ClassVar[str] = ""  # what the builder calls the GPU at hand
    # whether it measures kernels while it builds, and can keep the times
    timed: ClassVar[bool] = True

    def missing(self) -> str | None:
        """A bundle's files for it are ONNX: those can be written anywhere."""
        return None

    def cannot_run(self) -> str | None:
        return absent(self.module, self.extra) or _no_gpu()

    def device(self) -> str:
        return "GPU"

    def compiled(self, onnx: Path) -> Path | None:
        return cache.found(cache.entry(onnx, self._facts()))

    def compile(self, onnx: Path) -> Path:
        """Its engine for this GPU, driver and version, in the cache."""
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        facts = self._facts()
        path = cache.entry(onnx, facts)
        timing = (
            cache.folder() / f"{self.name}-{facts['gpu'].replace(' ', '-')}.timing"
            if self.timed
            else None
        )
        (engine,) = self._engines(onnx, (self.here,), timing)
        return cache.store(path, engine, facts)

    def _engines(
        self, onnx: Path, capabilities: tuple[str, ...], timing: Path | None = None
    ) -> list[bytes]:
        """One engine a compute capability. EdgegenError names the node that the parser or the
        builder refuses.
        """
        return self._built(onnx, checked(onnx)[0], capabilities, timing)

    def _built(
        self, onnx: Path, data: bytes, capabilities: tuple[str, ...], timing: Path | None = None
    ) -> list[bytes]:
        built = engines(self.module, data, capabilities, timing=timing)
        if isinstance(built, tuple):
            raise EdgegenError(
                *built, path=onnx, hint="edgegen lint says what its runtimes refuse of a graph"
            )
        return built

    def _facts(self) -> dict[str, str]:
        """Everything but the ONNX file that decides whether an engine fits."""
        return {"runtime": self.name, "version": self.version(), "batches": str(BATCHES), **_gpu()}

    def load(self, built: Path, threads: int) -> Session:
        """An engine, or an ONNX file whose engine is built here unless that has been done."""
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        if built.suffix == ".onnx":
            built = self.compiled(built) or self.compile(built)
        data = cache.read(built) if built.suffix == cache.SUFFIX else built.read_bytes()
        return _TensorRtSession(import_module(self.module), data, built)


class TensorRtRtx(TensorRt):
    """TensorRT for RTX: engines for each capability named here, built on any machine and shipped in
    the bundle.
    """

    name = extra = "tensorrt-rtx"
    module = "tensorrt_rtx"
    executable = True
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
        for capability, engine in zip(
            self.capabilities, self._engines(onnx, self.capabilities), strict=True
        ):
            paths.append(folder / f"{onnx.stem}.{capability}.engine")
            paths[-1].write_bytes(engine)
        return tuple(paths)

    def _engines(
        self, onnx: Path, capabilities: tuple[str, ...], timing: Path | None = None
    ) -> list[bytes]:
        """Those for Turing GPUs are of a graph of their own."""
        # here: a device that executes finished engines has no onnx
        from .turing import without_products

        data, model = checked(onnx)
        here = self._facts().get("capability") if self.here in capabilities else ""
        old = tuple(c for c in capabilities if TURING in (c, here))
        new = tuple(c for c in capabilities if c not in old)
        engines = dict(zip(new, self._built(onnx, data, new, timing), strict=True)) if new else {}
        if old:
            products = without_products(model).SerializeToString(deterministic=True)
            engines |= zip(old, self._built(onnx, products, old, timing), strict=True)
        return [engines[c] for c in capabilities]

    def load(self, built: Path, threads: int) -> Session:
        """The engine beside `built` that fits this GPU, or one that was built here; RuntimeMissing
        if there is none.
        """
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        if built.suffix != ".engine":
            return super().load(built, threads)
        fitting = built.with_name(f"{built.name.rsplit('.', 2)[0]}.{_capability()}.engine")
        if not fitting.is_file():
            raise RuntimeMissing(
                "E-ENGINE-VERSION",
                f"there is no engine for this GPU: {fitting.name}",
                path=built.parent,
                hint="run edgegen build",
            )
        return super().load(fitting, threads)


class TensorRtHalf(TensorRt):
    """The same without INT8: what INT8 must beat."""

    name = "tensorrt-fp16"
    dialect = Dialect(int8_ops=frozenset(), floats="float16")


class TensorRtRtxHalf(TensorRtRtx):
    """The same without INT8: what INT8 must beat."""

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
    """Of the GPU at hand, such as "SM89"."""
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
    """Runs an engine with torch tensors as device memory; one call at a time."""

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
        """An engine runs whole on its GPU."""
        return {"TensorRT": self._layers}
