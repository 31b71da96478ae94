"""TensorRT and TensorRT-RTX through one builder: strongly typed networks, precision written in the graph as Q/DQ.

TensorRT-RTX engines are built ahead of time without a GPU, one file a compute capability; executing one needs a GPU and driver.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import EdgegenError, RuntimeMissing

from .check import checked
from .engine import engines, logger_of
from .packages import absent, installed


class TensorRt:
    """The enterprise library: builds for the GPU it runs on, so it needs one.

    int8 with zero point 0, float bias, constant per-channel int8 weights, Q/DQ in front of each convolution and none behind.
    """

    name = "tensorrt"
    executable = True
    dialect = Dialect(activation="int8", symmetric=True)
    module = "tensorrt"
    packages: ClassVar[tuple[str, ...]] = ("tensorrt",)
    capabilities: ClassVar[tuple[str, ...]] = ()  # compute capabilities to build for; none means the GPU at hand

    def missing(self) -> str | None:
        return absent(self.module, self.name) or self._gpu()

    def cannot_run(self) -> str | None:
        return absent(self.module, self.name) or self._gpu()

    def version(self) -> str:
        return installed(self.packages)

    def device(self) -> str:
        return "GPU"

    def build(self, onnx: Path, folder: Path) -> tuple[Path, ...]:
        """One engine a compute capability. EdgegenError names the node that the parser or the builder refuses."""
        if why := self.missing():
            raise RuntimeMissing("E-BACKEND", why)
        data, _ = checked(onnx)
        made = engines(self.module, data, self.capabilities or ("",))
        if isinstance(made, tuple):
            raise EdgegenError(*made, path=onnx)
        paths = []
        for capability, engine in zip(self.capabilities or ("",), made, strict=True):
            paths.append(folder / (f"{onnx.stem}.{capability}.engine" if capability else f"{onnx.stem}.engine"))
            paths[-1].write_bytes(engine)
        return tuple(paths)

    def load(self, built: Path, threads: int) -> Session:
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        return _Session(import_module(self.module), built)

    def _gpu(self) -> str | None:
        try:
            import torch
        except ImportError:
            return "no CUDA device can be reached: PyTorch, which holds the device memory, is not installed"
        return None if torch.cuda.is_available() else "no CUDA device on this machine"


class TensorRtRtx(TensorRt):
    """TensorRT for RTX: engines for each capability named here, built on any machine."""

    name = "tensorrt-rtx"
    module = "tensorrt_rtx"
    packages: ClassVar[tuple[str, ...]] = ("tensorrt_rtx_cu13", "tensorrt_rtx", "tensorrt_rtx_cu12")
    capabilities: ClassVar[tuple[str, ...]] = ("SM80", "SM86", "SM89", "SM120")

    def missing(self) -> str | None:
        return absent(self.module, self.name)

    def cannot_run(self) -> str | None:
        if why := super().cannot_run():
            return why
        here = _capability()
        known = ", ".join(self.capabilities)
        return None if here in self.capabilities else f"engines are built for {known}, and the GPU of this machine is {here}"

    def load(self, built: Path, threads: int) -> Session:
        """The engine beside `built` that fits this GPU; RuntimeMissing if there is none."""
        if why := self.cannot_run():
            raise RuntimeMissing("E-GPU", why)
        fitting = built.with_name(f"{built.name.rsplit('.', 2)[0]}.{_capability()}.engine")
        if not fitting.is_file():
            raise RuntimeMissing("E-ENGINE-VERSION", f"there is no engine for this GPU: {fitting.name}", path=built.parent,
                                 hint="export again")
        return super().load(fitting, threads)


def _capability() -> str:
    """Of the GPU at hand, such as "SM89"."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


class _Session:
    """Runs an engine with torch tensors as device memory."""

    def __init__(self, trt: Any, built: Path) -> None:
        import torch

        self._torch = torch
        runtime = trt.Runtime(logger_of(trt))
        engine = runtime.deserialize_cuda_engine(built.read_bytes())
        if engine is None:
            raise RuntimeMissing("E-ENGINE-VERSION", "this engine was built by another version or for another GPU", path=built,
                                 hint="export again on this machine")
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._output = next(n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT)

    def __call__(self, **inputs: Array) -> Array:
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
