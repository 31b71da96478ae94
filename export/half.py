"""Convert the part of a graph that is not INT8 to float16: TensorRT's networks are strongly typed,
so the file decides what runs in which type.

Float32 stays where float16 would overflow or lose what matters: every operator that is not listed
as harmless (norms, softmax, roots, sines), products of two computed tensors (attention), squares
and what leads from them to a root (demodulation), and whatever touches a tensor that calibration
saw beyond float16's range. Inputs and outputs of the graph stay float32.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from edgegen.core.plan import Range
from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart

from . import sound

# largest calibrated value, a quarter of float16's range, because other seeds exceed what was seen
LARGEST = 65504.0 / 4
SMALLEST = 2.0**-24  # smallest positive float16
HARMLESS = frozenset(
    {
        "Add",
        "Clip",
        "Concat",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "DequantizeLinear",
        "Expand",
        "Flatten",
        "Gemm",
        "Identity",
        "LeakyRelu",
        "MatMul",
        "MaxPool",
        "Mul",
        "Pad",
        "QuantizeLinear",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
# these stay float32 if only float32 operators read them
LEADING = frozenset({"Add", "Div", "MatMul", "Mul", "Sub"})
FULL, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass
class _Halver:
    model: onnx.ModelProto
    ranges: Mapping[str, Range]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)  # tensor -> type in the new graph
    casts: dict[tuple[str, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        values = [*graph.value_info, *graph.input, *graph.output]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == FULL}
        self.weights = GraphConstants(self.model.graph)
        self.apart = any(map(is_apart, self.model.graph.initializer))
        self.floats |= {n for n in self.weights if self.weights.kind(n) == FULL}
        self.ends = {v.name for v in graph.output}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for k, node in enumerate(self.model.graph.node):
            for tensor in node.input:
                self.readers[tensor].append(k)
        self.full = self._islands()

    def _islands(self) -> set[int]:
        """Return the places of the nodes that stay float32."""
        nodes = list(self.model.graph.node)
        full = {k for k, node in enumerate(nodes) if self._needs_full(node)}
        for k in reversed(range(len(nodes))):
            read = [r for t in nodes[k].output for r in self.readers[t]]
            leads = nodes[k].op_type in LEADING or nodes[k].op_type == "DequantizeLinear"
            if leads and read and full.issuperset(read):
                full.add(k)
        makers = {t: k for k, node in enumerate(nodes) for t in node.output}
        rounds = {
            k: makers.get(n.input[0]) for k, n in enumerate(nodes) if n.op_type == "QuantizeLinear"
        }
        # a tensor is quantized in the type in which it was computed
        return full | {k for k, before in rounds.items() if before is None or before in full}

    def _needs_full(self, node: NodeProto) -> bool:
        inputs = [t for t in node.input if t]
        if node.op_type not in HARMLESS or any(self._wide(t) for t in (*inputs, *node.output)):
            return True
        computed = [t for t in inputs if t not in self.weights]
        product = node.op_type == "MatMul" and len(computed) == 2 and not inputs[1].endswith(".dq")
        return product or (node.op_type == "Mul" and inputs[0] == inputs[1])

    def _wide(self, tensor: str) -> bool:
        """Return whether a tensor exceeds float16's range, as calibrated or as constant, or is a
        single constant that float16 would round to zero.
        """
        if tensor in self.weights:
            if tensor not in self.floats:
                return False
            largest = np.abs(self.weights[tensor]).max(initial=0)
            single = math.prod(self.weights.shape(tensor)) == 1
            return bool(largest > LARGEST or (single and 0 < largest < SMALLEST))
        seen = self.ranges.get(tensor.removesuffix(".dq"))
        return seen is not None and max(-seen.low, seen.high) > LARGEST

    def run(self) -> onnx.ModelProto:
        self.written = {v.name: FULL for v in self.model.graph.input if v.name in self.floats}
        for k, node in enumerate(self.model.graph.node):
            if self.weights.is_made(node):
                continue
            kind = FULL if k in self.full else HALF
            new = onnx.NodeProto()
            new.CopyFrom(node)
            for place, tensor in enumerate(node.input):
                # Resize takes float32 scales whatever it resizes
                keeps = node.op_type == "Resize" and place > 0
                if tensor in self.floats:
                    new.input[place] = self._as(tensor, FULL if keeps else kind)
                elif tensor in self.weights:
                    self.constants[tensor] = self._as_it_is(tensor)
            ends = []
            for place, tensor in enumerate(node.output):
                if tensor in self.floats:
                    self.written[tensor] = kind
                    if kind == HALF and tensor in self.ends:
                        new.output[place] = f"{tensor}.half"
                        self.casts[tensor, HALF] = f"{tensor}.half"
                        ends.append(
                            helper.make_node(
                                "Cast", [f"{tensor}.half"], [tensor], f"{tensor}.Full", to=FULL
                            )
                        )
                        self.written[tensor] = FULL
            self.nodes += [new, *ends]
        return self._model()

    def _as(self, tensor: str, kind: int) -> str:
        """Return the name under which `tensor` is read in that type; casts are shared, constants
        are converted.
        """
        if tensor in self.weights:
            held = self.weights.stored_in(tensor, kind)
            if held is not None:
                self.constants[held.name] = held
                return held.name
            name = tensor if kind == FULL else f"{tensor}.half"
            if name not in self.constants:
                values = self.weights[tensor]
                self.constants[name] = constant(
                    values.astype(np.float16 if kind == HALF else np.float32), name, self.apart
                )
            return name
        if self.written[tensor] == kind:
            return tensor
        if (tensor, kind) not in self.casts:
            word = "half" if kind == HALF else "full"
            self.casts[tensor, kind] = f"{tensor}.{word}"
            self.nodes.append(
                helper.make_node(
                    "Cast", [tensor], [f"{tensor}.{word}"], f"{tensor}.{word.title()}", to=kind
                )
            )
        return self.casts[tensor, kind]

    def _as_it_is(self, tensor: str) -> TensorProto:
        """Return a constant that is not float32, unchanged."""
        held = self.weights.stored_in(tensor, self.weights.kind(tensor))
        return held or constant(self.weights[tensor], tensor, self.apart)

    def _model(self) -> onnx.ModelProto:
        out = onnx.ModelProto()
        out.CopyFrom(self.model)
        del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
        out.graph.node.extend(self.nodes)
        out.graph.initializer.extend(self.constants.values())
        sound.check(out)
        return out


def half(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return a new model whose harmless float operators run in float16; `ranges` are those of its
    tensors, as calibrated.
    """
    return _Halver(model, ranges).run()


def full_precision(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> Iterator[str]:
    """Yield the names of the nodes that `half` leaves in float32, in graph order."""
    full = _Halver(model, ranges).full
    yield from (node.name for k, node in enumerate(model.graph.node) if k in full)
