"""Run graphs in ONNX Runtime by execution provider: the one that was asked for is the one that
runs, or the error says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from edgegen.core import answer_cache
from edgegen.core.cpu import weight_bits
from edgegen.core.graph_file import GraphFile
from edgegen.core.offline import quietly
from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import EdgegenError, InputError, RuntimeMissing

from . import cache
from .ov import OpenVino
from .packages import FileRuntime
from .tensorrt import TensorRt

CPU = "CPUExecutionProvider"
# a provider that leaves these operators to the CPU gains nothing
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# this optimizer would round the float weights of a node between quantized tensors, with one scale
# for all
UNASKED = ["WeightBiasQuantization"]


class OnnxRuntime(FileRuntime):
    """Run graphs on the CPU, whose kernels want unsigned activations and every operator between
    convolutions quantized (signed is 2 to 4 times slower).

    A convolution whose output stays in float is no INT8 kernel: it dequantizes its input and takes
    1.5 times as long as FP32. A matrix product is an INT8 kernel either way, and writes float
    unless its reader wants less.
    """

    name = "onnxruntime"
    dialect = Dialect(
        activation="uint8",
        symmetric=False,
        weight_bits=weight_bits(),
        int32_bias=True,
        int8_ops=frozenset({"Conv", "Gemm", "MatMul"}),
        between=frozenset({"Add", "Relu", "Concat", "Resize"}),
        phases=True,
        outputs=True,
        stored="float16",
    )
    module, extra = "onnxruntime", "onnxruntime"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")
    provider: ClassVar[str] = CPU
    settings: ClassVar[Mapping[str, str]] = {
        "session.load_model_format": "ONNX",  # keeps it from guessing its own format from the bytes
        "session.intra_op.allow_spinning": "0",  # spinning takes CPU time from everything else
        "session.record_ep_graph_assignment_info": "1",
    }

    def session(self, file: GraphFile, threads: int) -> Session:
        if why := self.cannot_run():
            raise RuntimeMissing("E-BACKEND", why)
        ort = quietly("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        for key, value in self.settings.items():
            options.add_session_config_entry(key, value)
        wanted = [(self.provider, self.options(threads))]
        try:
            with _model(file) as model:
                session = ort.InferenceSession(
                    model, options, providers=wanted, disabled_optimizers=UNASKED
                )
        except EdgegenError:
            raise
        except Exception as error:  # the exceptions of ONNX Runtime share no base class
            what = str(error).partition("\n")[0]
            raise InputError(
                "E-ONNX-LOAD", f"ONNX Runtime cannot load it: {what}", path=file.path
            ) from error
        if session.get_providers()[0] != self.provider:
            got = ", ".join(session.get_providers())
            raise RuntimeMissing(
                "E-EP-FALLBACK", f"asked for {self.provider}, got {got}", path=file.path
            )
        found = _OrtSession(session)
        if self.provider != CPU and (left := found.on_cpu() & HEAVY):
            what = f"{self.provider} leaves {', '.join(sorted(left))} nodes to the CPU"
            raise RuntimeMissing(
                "E-EP-PARTIAL", what, path=file.path, details={"placement": found.placement()}
            )
        return found

    def options(self, threads: int) -> dict[str, str]:
        """Return the options of the provider."""
        return {}


@contextlib.contextmanager
def _model(file: GraphFile) -> Iterator[bytes | str]:
    """Yield the file's bytes, or the path of a private copy if its weights are large."""
    if file.weights is None:
        yield file.data()
        return
    with file.placed() as path:
        yield str(path)


class _Provider(OnnxRuntime):
    """Run graphs on another provider than the CPU's.

    Its files are ONNX, which can be written on any machine; where it runs, its library must load.
    """

    library: ClassVar[str]
    # tried on the CPU, because a device would be shared with others
    tried_on = "edgegen.export.ort:OnnxRuntime"

    def missing(self) -> str | None:
        return None

    def cannot_run(self) -> str | None:
        if why := super().missing():
            return why
        ort = quietly("onnxruntime")
        if self.provider not in (has := ort.get_available_providers()):
            what = f"this ONNX Runtime has no {self.provider}, only {', '.join(has)}"
            return f"{what}: pip install {self.packages[0]} in an environment of its own"
        with contextlib.redirect_stdout(io.StringIO()):  # preload_dlls prints what it does not find
            ort.preload_dlls()  # loads CUDA from PyTorch or from NVIDIA's own packages
        try:
            ctypes.CDLL(
                str(
                    Path(ort.__file__).parent
                    / "capi"
                    / f"libonnxruntime_providers_{self.library}.so"
                )
            )
        except OSError as error:
            return f"{self.provider} cannot be loaded: {error}"
        return None


class OnnxRuntimeCuda(_Provider):
    """Run float16 convolutions of cuDNN: it has no INT8 kernels, so INT8 saves memory on it but no
    time.
    """

    name = "onnxruntime-cuda"
    dialect = TensorRt.dialect
    provider, library = "CUDAExecutionProvider", "cuda"

    def device(self) -> str:
        return "GPU"


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """Build an engine of everything that TensorRT takes when a session starts, and keep it in the
    cache.
    """

    name = "onnxruntime-tensorrt"
    provider, library = "TensorrtExecutionProvider", "tensorrt"

    def options(self, threads: int) -> dict[str, str]:
        kept = str(cache.own(answer_cache.cache() / self.name))
        return {
            "trt_int8_enable": "1",
            "trt_fp16_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": kept,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": kept,
        }


class OnnxRuntimeOpenVino(_Provider):
    name = "onnxruntime-openvino"
    # it was not seen to restore float16 weights when it loads them
    dialect = replace(OpenVino.dialect, stored="float32")
    packages = ("onnxruntime-openvino",)
    provider, library = "OpenVINOExecutionProvider", "openvino"

    def options(self, threads: int) -> dict[str, str]:
        return {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)}


class _OrtSession:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, **inputs: Array) -> Array:
        out: Array = self._session.run(None, inputs)[0]
        return out

    def placement(self) -> dict[str, int]:
        """Return the number of nodes by provider, as the session assigned them."""
        parts = self._session.get_provider_graph_assignment_info()
        return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))

    def on_cpu(self) -> set[str]:
        """Return the operators of the nodes that the CPU provider executes."""
        parts = self._session.get_provider_graph_assignment_info()
        return {node.op_type for part in parts if part.ep_name == CPU for node in part.get_nodes()}
