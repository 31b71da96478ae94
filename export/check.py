"""Check an ONNX file that nobody vouches for before a native parser of this process reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgegen.core.declared import Declared
from edgegen.core.graph_file import GraphFile
from edgegen.core.runtime import Session
from edgegen.errors import InputError, RuntimeMissing

from . import door, onnx_structure
from .packages import FileRuntime, absent

if TYPE_CHECKING:
    from onnx import ModelProto


CHECKER = "edgegen.export.check:OnnxChecker"


class OnnxChecker(FileRuntime):
    """Run the checker of onnx in the door's process, which asks it whether a file is sound; it
    executes nothing.
    """

    name = "onnx"
    executes = False
    module, extra = "onnx", "export"
    packages = ("onnx",)

    def session(self, file: GraphFile, threads: int) -> Session:
        import onnx

        try:
            if file.weights is None:
                onnx.checker.check_model(file.data(), full_check=True)
            else:
                with file.placed() as path:
                    onnx.checker.check_model(str(path), full_check=True)
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            ValueError,
        ) as error:
            what = str(error).strip().partition("\n")[0] or "empty"
            raise InputError(
                "E-ONNX-PARSE", f"not a usable ONNX file: {what}", path=file.path
            ) from error
        return lambda **inputs: next(iter(inputs.values()))  # never called


def checked(file: GraphFile) -> tuple[bytes, ModelProto]:
    """Return the file's bytes and its model.

    Raises InputError for what is no ONNX file or keeps weights elsewhere, RuntimeMissing without
    onnx.
    """
    if why := absent("onnx", "export"):
        raise RuntimeMissing("E-BACKEND", f"an ONNX file is checked first: {why}", path=file.path)
    import onnx  # imported here, because a device that executes finished engines has no onnx

    data = file.data()
    onnx_structure.check(data, file.path, ours=False, beside=door.beside(file))
    known, checker = file.of_bytes(data), OnnxChecker()
    if file.vouched:
        checker.session(known, 1)
    else:
        door.tried(CHECKER, checker.version(), {"": known}, {"": Declared({}, ())})
    return data, onnx.load_from_string(data)
