"""Raise ONNX files of older opsets to the one that Q/DQ is written in, with onnx's own converter;
because that is native code, it runs first where it can do no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Session
from edgegen.errors import InputError

from . import door
from .packages import FileRuntime

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20  # TensorRT 10+, OpenVINO 2024+ and ONNX Runtime 1.17+ read it
IR = 10  # IR version of files with this opset
RAISER = "edgegen.export.opset:OpsetRaiser"


class OpsetRaiser(FileRuntime):
    """Run the converter of onnx as the door's process asks it; it executes nothing."""

    name = "onnx"
    executes = False
    module, extra = "onnx", "export"
    packages = ("onnx",)

    def session(self, file: GraphFile, threads: int) -> Session:
        _converted(file)
        return lambda **inputs: next(iter(inputs.values()))  # never called


def opset_of(model: ModelProto) -> int:
    """Return the opset of the standard operators; 0 if the file says none."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def raised(file: GraphFile) -> ModelProto:
    """Return the model in the file at OPSET, with functions written out.

    Raises InputError for an operator that the converter cannot raise, and for an opset that is
    newer.
    """
    door.tried(RAISER, OpsetRaiser().version(), {"": file}, {"": Declared({}, ())})
    return _converted(file)


def _converted(file: GraphFile) -> ModelProto:
    import onnx
    from onnx import inliner, version_converter

    model = inliner.inline_local_functions(onnx.load_from_string(file.data()))
    found = opset_of(model)
    if found > OPSET:
        raise InputError(
            "E-BRING",
            f"its opset is {found}, and {OPSET} is the newest that every runtime reads",
            path=file.path,
            hint=f"export it again with opset_version={OPSET}",
        )
    if found < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (version_converter.ConvertError, RuntimeError, ValueError) as error:
            what = " ".join(str(error).rpartition(" failed: ")[2].split()) or type(error).__name__
            raise InputError(
                "E-BRING",
                f"onnx cannot raise it from opset {found} to {OPSET}: {what:.200}",
                path=file.path,
                hint=f"export it again with opset_version={OPSET}",
            ) from error
    model.ir_version = IR
    return model
