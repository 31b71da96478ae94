"""ONNX Runtime, CPU provider: what was asked for is what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgegen.core.runtime import Dialect, Session
from edgegen.core.spec import Array
from edgegen.errors import InputError, RuntimeMissing

from .packages import CpuRuntime

PROVIDER = "CPUExecutionProvider"
UNASKED = ["WeightBiasQuantization"]  # would round the float weights of a node between quantized tensors, one scale for all


class OnnxRuntime(CpuRuntime):
    """Its CPU kernels want unsigned activations and every op between convolutions quantized (signed is 2 to 4 times slower).

    A convolution whose output stays in float is no INT8 kernel: it dequantizes its input and takes 1.5 times as long as FP32.
    """

    name = "onnxruntime"
    dialect = Dialect(
        activation="uint8", symmetric=False, int32_bias=True, int8_ops=frozenset({"Conv"}),
        between=frozenset({"Add", "Relu", "Concat", "Resize"}), outputs=True,
    )
    module, extra = "onnxruntime", "onnxruntime"
    packages = ("onnxruntime-gpu", "onnxruntime")

    def load(self, built: Path, threads: int) -> Session:
        if why := self.cannot_run():
            raise RuntimeMissing("E-BACKEND", why)
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning steals the CPU of everything else
        try:
            session = ort.InferenceSession(str(built), options, providers=[PROVIDER], disabled_optimizers=UNASKED)
        except Exception as error:  # its exceptions share no base class
            raise InputError("E-ONNX-LOAD", f"ONNX Runtime cannot load it: {str(error).splitlines()[0]}", path=built) from error
        if session.get_providers() != [PROVIDER]:
            raise RuntimeMissing("E-EP-FALLBACK", f"asked for {PROVIDER}, got {session.get_providers()}")
        return _Session(session)


class _Session:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, **inputs: Array) -> Array:
        out: Array = self._session.run(None, inputs)[0]
        return out
