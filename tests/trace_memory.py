"""torch takes seconds to trace a graph, and dozens of tests export the same toys: a worker traces
each once.

Only `edgegen.export.onnx.to_onnx` as workflows call it is remembered. Tests of tracing itself
import the function by its name and get the real one.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from edgegen.core.graph import Graph

PLAIN = (bool, int, float, str, tuple, list, type(None))
Export = Callable[["Graph", str], "ModelProto"]


def install() -> None:
    """Once the module is imported; before that nothing is traced."""
    module: Any = sys.modules.get("edgegen.export.onnx")
    if module is not None and not hasattr(module.to_onnx, "__wrapped__"):
        module.to_onnx = remembering(module.to_onnx)


def remembering(export: Export) -> Export:
    known: dict[str, bytes] = {}

    @functools.wraps(export)
    def remembered(graph: Graph, name: str) -> ModelProto:
        from onnx import ModelProto

        if (key := identity(graph, name)) is None:
            return export(graph, name)
        if key not in known:
            known[key] = export(graph, name).SerializeToString(deterministic=True)
        return ModelProto.FromString(known[key])

    return remembered


def identity(graph: Graph, name: str) -> str | None:
    """All that a trace can depend on: shapes, classes of modules, weights and settings. None for a
    module that somebody has hooked into or given a function of its own.
    """
    said = [name, repr(graph.inputs), repr(graph.output)]
    for path, module in graph.module.named_modules():
        if (own := settings(module)) is None:
            return None
        said += [path, f"{type(module).__module__}.{type(module).__qualname__}", repr(own)]
    found = hashlib.sha256(repr(said).encode())
    for tensors in (graph.module.named_parameters(), graph.module.named_buffers()):
        for key, tensor in tensors:
            found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def settings(module: nn.Module) -> list[tuple[str, Any]] | None:
    """A module's own attributes but for tensors and modules; None where one is not plain."""
    out = []
    for key, value in sorted(vars(module).items()):
        if key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            continue
        if isinstance(value, dict) and not value:
            continue  # hooks that nobody set
        if not (isinstance(value, PLAIN) or is_dataclass(value)):
            return None
        out.append((key, value))
    return out
