"""edgegen: image generators for edge devices, quantized with a proven verdict."""

from __future__ import annotations

from typing import Any

__all__ = ["EdgegenError", "Pipeline", "Verdict", "__version__", "offline"]
__version__ = "0.1.0"

_LAZY = {
    "EdgegenError": "edgegen.errors",
    "Pipeline": "edgegen.core.runtime",
    "Verdict": "edgegen.core.verdict",
    "offline": "edgegen.core.offline",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import edgegen` itself stays instant."""
    if name not in _LAZY:
        raise AttributeError(f"module 'edgegen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
