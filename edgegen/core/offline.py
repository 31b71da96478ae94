"""Keeps libraries off the network: environment variables for all of them, and imports of runtimes
with their telemetry turned off.

Measured with the kernel's filter of machine/network_sandbox.py, without CI in the environment: ONNX
Runtime 1.29 and newer opens a socket 9 seconds after its import, and writes a device id and a
database into ~/.cache, unless ORT_DISABLE_TELEMETRY is set while it is imported (its own
disable_telemetry_events comes too late). OpenVINO's convert_model calls a web service unless its
telemetry package cannot be imported when openvino is. peft, accelerate, bitsandbytes and torch want
nothing as edgegen uses them.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from importlib import import_module
from typing import Any

OFFLINE = {
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "offline",
}
VARIABLE = "ORT_DISABLE_TELEMETRY"
TELEMETRY = "openvino_telemetry"  # OpenVINO uses a silent stub where this cannot be imported
_importing = threading.RLock()


def offline() -> None:
    """Keep every library of this process off the network, as the command line does.

    Call it before they are imported. It sets the variables of OFFLINE where the user has not set
    them, and blocks OpenVINO's telemetry package; processes that are started inherit the variables.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]


@functools.cache
def quietly(name: str) -> Any:
    """Import onnxruntime or openvino with telemetry off, and restore the environment afterwards.

    If the program imported the runtime before edgegen, its own choice stays.
    """
    with _importing:
        variable_set, package_known = VARIABLE in os.environ, TELEMETRY in sys.modules
        os.environ.setdefault(VARIABLE, OFFLINE[VARIABLE])
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
        try:
            return import_module(name)
        finally:
            if not variable_set:
                del os.environ[VARIABLE]
            if not package_known:
                del sys.modules[TELEMETRY]
