"""torch takes seconds to trace a graph, and dozens of tests export the same toys: each is traced
once for all workers, and again only when a line of the project's code has changed.

Only `edgegen.export.onnx.to_onnx` as workflows call it is remembered. Tests of tracing itself
import the function by its name and get the real one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgegen.core.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from edgegen.core.graph import Graph

ROOT = Path(__file__).parents[1]
PLAIN = (bool, int, float, str, tuple, list, type(None))
Export = Callable[[Any, str], "ModelProto"]


def install(folder: Path | None) -> None:
    """Once the module is imported; before that nothing is traced. folder: what workers and later
    runs of the same code share; None: nothing is shared.
    """
    module: Any = sys.modules.get("edgegen.export.onnx")
    if module is not None and not hasattr(module.to_onnx, "__wrapped__"):
        module.to_onnx = remembering(module.to_onnx, folder)


def remembering(export: Export, folder: Path | None = None) -> Export:
    known: dict[str, bytes] = {}

    @functools.wraps(export)
    def remembered(graph: Graph | OnnxGraph, name: str) -> ModelProto:
        from onnx import ModelProto

        if (key := identity(graph, name)) is None:
            return export(graph, name)
        shared = None if folder is None else folder / f"{key}.onnx"
        if key not in known and shared is not None and shared.is_file():
            known[key] = shared.read_bytes()
        if key not in known:
            known[key] = export(graph, name).SerializeToString(deterministic=True)
            if shared is not None:
                _put(shared, known[key])
        return ModelProto.FromString(known[key])

    return remembered


def shared_folder(cache: Path) -> Path:
    """In `cache`, for the code as it is now; what was traced by other code is removed."""
    found = hashlib.sha256()
    for package in ("torch", "onnx", "onnxscript"):
        found.update(version(package).encode())
    for place in ("edgegen", "export", "calibrate", "tests"):
        for path in sorted((ROOT / place).rglob("*.py")):
            found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    folder = cache / found.hexdigest()[:16]
    for other in cache.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    return folder


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all, since another worker may be reading."""
    path.parent.mkdir(exist_ok=True)  # a run of other code removes the folder meanwhile
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def identity(graph: Graph | OnnxGraph, name: str) -> str | None:
    """All that a trace can depend on: shapes, classes of modules, weights and settings. None for a
    module that somebody has hooked into or given a function of its own, and for what is no module.
    """
    if isinstance(graph, OnnxGraph):
        return None
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
