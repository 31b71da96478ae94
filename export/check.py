"""An ONNX file that nobody vouches for, checked before a native parser sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import InputError, RuntimeMissing

from .packages import absent

if TYPE_CHECKING:
    from onnx import ModelProto


def checked(path: Path) -> tuple[bytes, ModelProto]:
    """Its bytes and the model in them. InputError for what is no ONNX or keeps weights elsewhere,
    RuntimeMissing without onnx.
    """
    if why := absent("onnx", "export"):
        raise RuntimeMissing("E-BACKEND", f"an ONNX file is checked first: {why}", path=path)
    import onnx  # here, since a device that executes finished engines has no onnx

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError("E-ONNX-PARSE", f"cannot be read: {error.strerror}", path=path) from error
    try:
        # native parsers accept garbage: never unchecked bytes
        onnx.checker.check_model(data, full_check=True)
        model = onnx.load_from_string(data)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        what = str(error).strip().partition("\n")[0] or "empty"
        raise InputError("E-ONNX-PARSE", f"not a usable ONNX file: {what}", path=path) from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                "E-ONNX-EXTERNAL",
                f"keeps {tensor.name} in another file",
                path=path,
                hint="save the model with its weights in one file",
            )
    return data, model
