"""Check an OpenVINO model in Python before OpenVINO reads it: operators of its own sets, constants
inside the weights file, and nothing that repeats.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.parsers import expat

from edgegen.errors import EdgegenError, InputError

from .onnx_structure import DRAWS, REPEATS

DEPTH = 32  # most elements within elements
ELEMENTS = 2_000_000
OPERATORS = re.compile(r"opset[1-9][0-9]?")  # versions of OpenVINO's own operator sets
REFUSED = {"Loop": REPEATS, "TensorIterator": REPEATS}
REFUSED |= {"RandomUniform": DRAWS, "Multinomial": DRAWS}
# bits of an element by its type
BITS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "i32": 32, "i16": 16, "i8": 8}
BITS |= {"u64": 64, "u32": 32, "u16": 16, "u8": 8, "boolean": 8, "i4": 4, "u4": 4, "u1": 1}
BITS |= {"f8e4m3": 8, "f8e5m2": 8, "nf4": 4}


def check(data: bytes, weights: bytes, path: Path) -> None:
    """Raise InputError for what is no model in OpenVINO's format, or holds more than a
    graph needs.
    """
    try:
        _IrReader(len(weights), path).read(data)
    except (KeyError, ValueError, expat.ExpatError) as error:
        what = f"not a usable OpenVINO model: {error}"
        raise InputError("E-IR-PARSE", what, path=path) from error


class _IrReader:
    def __init__(self, weights: int, path: Path) -> None:
        self.weights, self.path = weights, path
        self.depth = self.elements = 0
        self.kind = ""
        self.layers: set[str] = set()
        self.joined: set[str] = set()  # layers that an edge names

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        # definitions of entities can make a small text huge
        parser.StartDoctypeDeclHandler = self._no_definitions
        parser.Parse(data, True)
        if not self.layers:
            raise ValueError("it holds no graph")
        if unknown := sorted(self.joined - self.layers):
            raise ValueError(f"an edge names layer {unknown[0]!r}, and there is none")

    def _no_definitions(self, *_: object) -> None:
        raise ValueError("it has a document type")

    def _refuse(self, code: str, what: str) -> EdgegenError:
        return InputError(code, what, path=self.path)

    def _end(self, _: str) -> None:
        self.depth -= 1

    def _start(self, name: str, values: dict[str, str]) -> None:
        if not self.depth and name != "net":
            raise ValueError(f"it begins with {name!r}")
        self.depth += 1
        self.elements += 1
        if self.depth > DEPTH or self.elements > ELEMENTS:
            raise self._refuse("E-IR-LIMIT", "it holds more than a graph needs")
        if name == "layer":
            self._layer(values)
        elif name == "edge":
            self.joined |= {values.get("from-layer", ""), values.get("to-layer", "")}
        elif name == "data" and self.kind == "Const":
            self._constant(values)

    def _layer(self, values: dict[str, str]) -> None:
        self.layers.add(values.get("id", ""))
        self.kind, version = values.get("type", ""), values.get("version", "")
        if not OPERATORS.fullmatch(version):
            what = f"the operator {version!r}:{self.kind!r} is not allowed"
            raise self._refuse("E-IR-OP", what)
        if why := REFUSED.get(self.kind):
            raise self._refuse("E-IR-OP", f"the operator {self.kind} is not allowed: {why}")

    def _constant(self, values: dict[str, str]) -> None:
        """Check that a constant's bytes lie in the weights, and are as many as its shape says."""
        offset, size = int(values["offset"]), int(values["size"])
        kind, shape = values.get("element_type", ""), values.get("shape", "")
        sides = [int(side) for side in shape.split(",") if side.strip()]
        if not 0 <= offset <= offset + size <= self.weights or min(sides, default=0) < 0:
            raise ValueError(f"a constant lies outside the weights, at {offset} with {size} bytes")
        if kind in BITS and size != -(-math.prod(sides) * BITS[kind] // 8):
            raise ValueError(f"a constant of {kind} and shape {shape!r} has {size} bytes")
