"""edgegen: image generators for edge devices, quantized with a proven verdict."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["EdgegenError", "Pipeline", "Verdict", "__version__"]
__version__ = "0.1.0"

# Nothing here talks to the network: said to the libraries before any of them is imported. A user's
# own value is respected.
OFFLINE = {
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # ONNX Runtime 1.29 and newer: else a device id in ~/.cache and uploads about every model
    "ORT_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "offline",
}
for _name, _value in OFFLINE.items():
    os.environ.setdefault(_name, _value)
# openvino then uses its silent stub instead of calling home
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_LAZY = {
    "EdgegenError": "edgegen.errors",
    "Pipeline": "edgegen.core.runtime",
    "Verdict": "edgegen.core.verdict",
}


def __getattr__(name: str) -> Any:
    """The public classes, imported when first asked for: `import edgegen` itself stays instant."""
    if name not in _LAZY:
        raise AttributeError(f"module 'edgegen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
