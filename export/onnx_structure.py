"""Check an ONNX file in Python before any native parser reads it: known operators, all weights
inside or in the one file beside it, and no function or graph so deep or so often repeated that a
parser breaks.

It reads the format's own fields (onnx.proto) in all graphs and functions, wherever they lie.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgegen.core.declared import GRAPH, GRAPH_INITIALIZER, GRAPH_NODE, TENSOR_NAME
from edgegen.core.protobuf import Message
from edgegen.errors import EdgegenError, InputError, TrustError

NODES = 50_000  # most nodes of a graph with all that it calls
DEPTH = 8  # most levels of graphs within graphs
CALLS = 32  # most levels of functions that call functions
FIELDS = 2_000_000  # most fields of all messages that are read
DOMAINS = frozenset({"", "ai.onnx"})
# A generator's graph is a function of its inputs that computes one step.
REPEATS = "a graph is one step of a sampler, and repeats nothing itself"
DRAWS = "what a graph computes follows from the seed, and it draws nothing itself"
REFUSED = {"Loop": REPEATS, "Scan": REPEATS, "SequenceMap": REPEATS}
REFUSED |= dict.fromkeys(
    (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    ),
    DRAWS,
)
# numbers of the fields in onnx.proto
_IR_VERSION, _TRAINING, _FUNCTION = 1, 20, 25
_SPARSE_INITIALIZER = 15
_OP, _DOMAIN, _ATTRIBUTE, _OVERLOAD = 4, 7, 5, 8
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE, _SPARSES = 5, 6, 10, 11, 22, 23
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN, _FUNCTION_OVERLOAD = 1, 7, 10, 13
_FUNCTION_ATTRIBUTE = 11
_DIMS, _TYPE, _RAW, _EXTERNAL, _LOCATION = 1, 2, 9, 13, 14
_KEY, _VALUE = 1, 2  # of an entry of external data
_PLACE = frozenset({"location", "offset", "length"})  # external data must say exactly this
_DIGITS = 16  # an offset has fewer digits
_VALUES = frozenset({4, 5, 6, 7, _RAW, 10, 11})  # fields of a tensor that hold values
_PART = 4 << 20  # bytes that are read at a time
# bytes of an element by data type; other types have no fixed size, or share bytes
_WIDTH = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_WIDTH |= {14: 8, 15: 16, 17: 1, 18: 1, 19: 1, 20: 1}
_FLOATS = {1: np.float32, 10: np.float16, 11: np.float64}
Function = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True)
class Beside:
    """Describe the file of weights beside a graph: its name and size, and its bytes if they are
    checked too.
    """

    name: str
    bytes: int
    content: memoryview | None = None


def check(data: bytes, path: Path, *, ours: bool = True, beside: Beside | None = None) -> None:
    """Raise InputError for what is no ONNX file or more than a graph needs, TrustError if weights
    would be read from elsewhere.

    `ours` is a generator's graph, of the operators that edgegen's runtimes share; otherwise any
    operator passes, and lint judges it. `beside` is the only file in which it may keep weights.
    """
    try:
        _Model(data, path, ours, beside).check()
    except ValueError as error:
        what = f"not a usable ONNX file: {error}"
        raise InputError("E-ONNX-PARSE", what, path=path) from error


class _Model:
    def __init__(self, data: bytes, path: Path, ours: bool, beside: Beside | None) -> None:
        self.path, self.ours, self.beside = path, ours, beside
        # begin, end and name of each tensor in the file beside
        self.spans: list[tuple[int, int, str]] = []
        self.model = Message(memoryview(data))
        self.functions: set[Function] = set()
        self.fields = self.nodes = 0

    def check(self) -> None:
        graph = self.model.one(GRAPH)
        if graph is None or not self.model.integer(_IR_VERSION):
            raise ValueError("it holds no graph")
        bodies: dict[Function, Message] = {}
        for function in self.model.all(_FUNCTION):
            name = (
                function.text(_FUNCTION_DOMAIN),
                function.text(_FUNCTION_NAME),
                function.text(_FUNCTION_OVERLOAD),
            )
            if name in bodies or name[0] in DOMAINS:
                raise ValueError(f"function {name[1]!r} stands twice, or in place of an operator")
            bodies[name] = function
        self.functions = set(bodies)
        calls = {name: self._function(body) for name, body in bodies.items()}
        top = self._graph(graph, 0)
        if not top:
            raise ValueError("its graph has no nodes")
        for training in self.model.all(_TRAINING):
            for number in (1, 2):
                for inner in training.all(number):
                    self._graph(inner, 1)
        self._expanded(top, calls)
        self.spans.sort()
        for (_, end, one), (begin, _, other) in pairwise(self.spans):
            if begin < end:
                raise self._wrong_place(other, f"shares bytes with {one!r}")

    def _refuse(self, what: str) -> EdgegenError:
        return InputError("E-ONNX-LIMIT", what, path=self.path)

    def _count(self, message: Message) -> None:
        self.fields += sum(1 for _ in message.fields())
        if self.fields > FIELDS:
            raise self._refuse(f"it holds more than {FIELDS} parts")

    def _function(self, function: Message) -> Counter[Function]:
        self._count(function)
        for attribute in function.all(_FUNCTION_ATTRIBUTE):
            self._attribute(attribute, 0)
        return self._nodes(function, _FUNCTION_NODE, 0)

    def _graph(self, graph: Message, depth: int) -> Counter[Function]:
        """Count the operators and functions of a graph, with the graphs within it."""
        if depth > DEPTH:
            raise self._refuse(f"graphs lie within graphs more than {DEPTH} deep")
        self._count(graph)
        for tensor in graph.all(GRAPH_INITIALIZER):
            self._tensor(tensor)
        for sparse in graph.all(_SPARSE_INITIALIZER):
            self._sparse(sparse)
        return self._nodes(graph, GRAPH_NODE, depth)

    def _nodes(self, holder: Message, number: int, depth: int) -> Counter[Function]:
        found: Counter[Function] = Counter()
        for node in holder.all(number):
            words = {_DOMAIN: "", _OP: "", _OVERLOAD: ""}
            for field, value in node.fields():
                self.fields += 1
                if field in words and not isinstance(value, int):
                    words[field] = bytes(value).decode("utf-8", "replace")
                elif field == _ATTRIBUTE and not isinstance(value, int):
                    found += self._attribute(Message(value), depth)
            name = (words[_DOMAIN], words[_OP], words[_OVERLOAD])
            if self.ours and name not in self.functions:
                self._operator(name)
            found[name] += 1
            self.nodes += 1
            if self.nodes > NODES or self.fields > FIELDS:
                raise self._refuse(f"it has more than {NODES} nodes, or {FIELDS} parts")
        return found

    def _operator(self, name: Function) -> None:
        domain, operator, _ = name
        if domain not in DOMAINS:
            raise InputError(
                "E-ONNX-OP", f"the operator {domain!r}:{operator!r} is not allowed", path=self.path
            )
        if why := REFUSED.get(operator):
            raise InputError(
                "E-ONNX-OP", f"the operator {operator} is not allowed: {why}", path=self.path
            )

    def _attribute(self, attribute: Message, depth: int) -> Counter[Function]:
        self._count(attribute)
        found: Counter[Function] = Counter()
        inner = [attribute.one(_SUBGRAPH), *attribute.all(_SUBGRAPHS)]
        for graph in inner:
            if graph is not None:
                found += self._graph(graph, depth + 1)
        for tensor in (attribute.one(_TENSOR), *attribute.all(_TENSORS)):
            if tensor is not None:
                self._tensor(tensor)
        for number in (_SPARSE, _SPARSES):
            for sparse in attribute.all(number):
                self._sparse(sparse)
        return found

    def _sparse(self, sparse: Message) -> None:
        for number in (1, 2):  # values and indices
            for tensor in sparse.all(number):
                self._tensor(tensor)

    def _tensor(self, tensor: Message) -> None:
        """Check that a tensor's data is in the file, and as much as its shape says."""
        self._count(tensor)
        name = tensor.text(TENSOR_NAME)
        entries = [(e.text(_KEY), e.text(_VALUE)) for e in tensor.all(_EXTERNAL)]
        places = dict(entries)
        apart = bool(entries or tensor.integer(_LOCATION))
        if apart and (self.beside is None or places.get("location") != self.beside.name):
            raise self._elsewhere(name, places.get("location", ""))
        dims = tensor.integers(_DIMS)
        if any(size >= 1 << 40 for size in dims):  # negative sizes read as the largest
            raise ValueError(f"tensor {name!r} has the shape {dims[:8]}")
        if apart:
            self._beside(tensor, name, math.prod(dims), entries)
            return
        raw = [value for number, value in tensor.fields() if number == _RAW]
        width = _WIDTH.get(tensor.integer(_TYPE))
        if raw and width is not None:
            (last, wanted) = (raw[-1], math.prod(dims) * width)
            if isinstance(last, int) or len(last) != wanted:
                raise ValueError(f"tensor {name!r} does not hold the {wanted} bytes of its shape")
            self._check_numbers(tensor, name, last)

    def _check_numbers(self, tensor: Message, name: str, data: memoryview) -> None:
        kind = _FLOATS.get(tensor.integer(_TYPE))
        for first in range(0, len(data) if kind else 0, _PART):
            if np.isnan(np.frombuffer(data[first : first + _PART], kind)).any():
                what = f"tensor {name!r} holds NaN"
                raise InputError("E-NONFINITE", what, path=self.path)

    def _beside(
        self, tensor: Message, name: str, elements: int, entries: list[tuple[str, str]]
    ) -> None:
        """Check that all bytes of a tensor lie where it says."""
        assert self.beside is not None
        places, width = dict(entries), _WIDTH.get(tensor.integer(_TYPE))
        numbers = [places.get("offset", ""), places.get("length", "")]
        if (
            tensor.integer(_LOCATION) != 1
            or len(entries) != len(_PLACE)
            or places.keys() != _PLACE
            or not all(n.isascii() and n.isdecimal() and len(n) < _DIGITS for n in numbers)
            or any(number in _VALUES for number, _ in tensor.fields())
        ):
            raise self._wrong_place(name, "does not say plainly where")
        offset, length = map(int, numbers)
        if width is None or length != elements * width or not length:
            raise self._wrong_place(name, f"has {length} bytes there, and another shape")
        if offset + length > self.beside.bytes:
            raise self._wrong_place(name, f"ends at byte {offset + length} of {self.beside.bytes}")
        self.spans.append((offset, offset + length, name))
        if self.beside.content is not None:
            self._check_numbers(tensor, name, self.beside.content[offset : offset + length])

    def _wrong_place(self, name: str, what: str) -> EdgegenError:
        beside = "" if self.beside is None else self.beside.name
        return TrustError(
            "E-ONNX-EXTERNAL", f"tensor {name!r}, kept in {beside}, {what}", path=self.path
        )

    def _elsewhere(self, name: str, place: str) -> EdgegenError:
        hint = "save the model with its weights in one file"
        parts = Path(place).parts
        if place.startswith(("/", "\\")) or ".." in parts or not place.isprintable():
            what = f"tensor {name!r} is kept in {place!r}, which leaves the model's folder"
            return TrustError("E-ONNX-EXTERNAL", what, path=self.path, hint=hint)
        what = f"keeps {name!r} in another file"
        return InputError("E-ONNX-EXTERNAL", what, path=self.path, hint=hint)

    def _expanded(self, top: Counter[Function], calls: dict[Function, Counter[Function]]) -> None:
        """Check that calls of functions, written out as parsers do, are few enough."""
        sizes: dict[Function, int] = {}

        def size(found: Counter[Function], depth: int) -> int:
            if depth > CALLS:
                raise self._refuse(f"functions call functions more than {CALLS} deep")
            total = 0
            for name, count in found.items():
                if name in calls and name not in sizes:
                    sizes[name] = size(calls[name], depth + 1)
                total += count * sizes.get(name, 1)
            if total > NODES:
                raise self._refuse(f"it has more than {NODES} nodes")
            return total

        size(top, 0)
        for name in calls:  # also the functions that nobody calls
            if name not in sizes:
                sizes[name] = size(calls[name], 1)
