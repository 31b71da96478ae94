"""Load an ONNX file that another program made: check it, run it where it can do no harm, raise it
to the opset that edgegen writes, and compare it with what it computed before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.declared import declared
from ..core.graph_file import GraphFile
from ..core.held_session import HeldSession
from ..core.reader import GRAPH_BYTES, read_bytes
from ..core.spec import Array
from ..errors import InputError
from .context import cores
from .source_choices import OF_ONNX, SourceChoices

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..bring.onnx_source import BroughtOnnx

EXECUTED_BY = "onnxruntime"
UNNAMED = "not named in its file"


@dataclass(frozen=True)
class OnnxSource:
    """Hold a brought generator and what a manifest says of it (`about`)."""

    generator: BroughtOnnx
    about: dict[str, Any]


def load_onnx(path: Path, choices: SourceChoices) -> OnnxSource:
    """Load an ONNX file as a generator.

    Raises InputError if the file cannot be taken as it is, UsageError for a choice that it has no
    use for, and RuntimeMissing without onnx or ONNX Runtime.
    """
    choices.check_only(OF_ONNX, "an ONNX file")
    from ..bring.onnx_source import OnnxChoices, OnnxTools, bring_onnx
    from ..export import onnx_structure
    from ..export.check import checked

    data = read_bytes(path, GRAPH_BYTES, "E-ONNX-PARSE")
    _, model = checked(GraphFile.of(path, data))
    onnx_structure.check(data, path)
    wanted = OnnxChoices(choices.inputs, choices.sampler, choices.output_range, choices.output)
    tools = OnnxTools(lambda changed: _raised(changed, path), lambda changed: _load(changed, path))
    brought = bring_onnx(path, model, data, wanted, tools)
    about = {
        "name": "ONNX file",
        "weights_sha256": brought.sha256,
        "data": {"name": "data of whoever made it"},
        "licence": UNNAMED,
    }
    return OnnxSource(brought, about)


def _raised(data: bytes, path: Path) -> ModelProto:
    from ..export.opset import raised

    return raised(GraphFile.of(path, data))


def _load(data: bytes, path: Path) -> Callable[..., Array]:
    from ..export import STAND_IN, runtime

    host = runtime(STAND_IN)
    try:
        shapes = declared(data, tokens=True)
    except ValueError as error:
        raise InputError("E-ONNX-PARSE", f"no graph of a generator: {error}", path=path) from error
    host.admit({"": GraphFile.of(path, data)}, {"": shapes})
    session = host.session(GraphFile.of(path, data, vouched=True), cores())
    return HeldSession(session, shapes.output, path)
