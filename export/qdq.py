"""Write Q/DQ into an FP32 ONNX graph as a Plan says, in the form that a Dialect wants.

int8 nodes read quantized inputs and int8 constant weights. In a dialect with `between`, the outputs
of int8 convolutions and the operators that join them are quantized too, so that nothing runs in
float before a node that the plan keeps in float. In one with `outputs`, that node reads the
quantized output too: a float reader would make the kernel before it a float one. Kernels of matrix
products write float at the same speed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.layers import CONVOLUTIONS, LAYERS, LINEAR, is_layer, weight_axis
from edgegen.core.plan import Plan, Range, rounded_name
from edgegen.core.runtime import Dialect
from edgegen.core.weight_file import constant
from edgegen.core.weights import GraphConstants, is_apart
from edgegen.errors import InputError

from . import sound, storage
from .half import LARGEST, half
from .phases import Move, has_phases, with_phases

TYPES = {
    "int8": (TensorProto.INT8, np.int8, -128, 127),
    "uint8": (TensorProto.UINT8, np.uint8, 0, 255),
}
SMALLEST = 1e-18  # smallest scale, whose square is still a normal float32
TINY = 2.0**-24  # smallest positive float16
INT32 = 2.0**31 - 128  # largest magnitude of an int32 bias that float32 represents


@dataclass(frozen=True)
class Scale:
    """Hold an affine code: real = scale * (quantized - zero_point)."""

    scale: np.float32
    zero_point: int
    kind: str

    @classmethod
    def of(cls, seen: Range, dialect: Dialect) -> Scale:
        """Return the affine code that covers a range; a constant zero gets scale 1."""
        _, _, low, high = TYPES[dialect.activation]
        if dialect.symmetric:
            widest = max(-seen.low, seen.high)
            return cls(
                _step(widest / 127, dialect),
                0 if dialect.activation == "int8" else 128,
                dialect.activation,
            )
        scale = _step((seen.high - seen.low) / 255, dialect)
        return cls(
            scale, int(np.clip(np.rint(low - seen.low / scale), low, high)), dialect.activation
        )


def _step(value: float, dialect: Dialect) -> np.float32:
    return np.float32(_written(np.asarray(max(value, SMALLEST) if value else 1), dialect))


def _written(scale: np.ndarray, dialect: Dialect) -> np.ndarray:
    """Return scales as the file will hold them: in float16 the next larger value, so that nothing
    in the range is cut off.
    """
    if dialect.floats == "float32":
        return scale.astype(np.float32)
    near = np.clip(scale, TINY, LARGEST).astype(np.float16)
    held = np.where(near < scale, np.nextafter(near, np.float16(np.inf)), near)
    # scales too large for float16 stay in float32
    return np.where(scale * 127 > LARGEST, scale, held).astype(np.float32)


@dataclass
class _QdqWriter:
    """Write the Q/DQ graph. Nodes go by their first output, because names may be missing or
    repeated in a model that edgegen did not export.
    """

    model: onnx.ModelProto
    name: str
    plan: Plan
    dialect: Dialect
    nodes: list[onnx.NodeProto] = field(default_factory=list)  # nodes of the new graph, in order
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = GraphConstants(self.model.graph)
        self.floats = set(candidates(self.model))
        self.moves: Mapping[str, Move] = {}
        if self.dialect.phases:
            turned = [n.output[0] for n in self.model.graph.node if self._is_int8(n)]
            self.model, self.moves = with_phases(self.model, turned)
        graph = self.model.graph
        self.weights = GraphConstants(graph)
        self.apart = any(map(is_apart, graph.initializer))
        # (weight, its scales) -> its dequantized tensor
        self.written: dict[tuple[str, bytes], str] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.maker: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            for tensor in node.input:
                self.readers[tensor].append(node)
            for tensor in node.output:
                self.maker[tensor] = node
        self.ends = {value.name for value in graph.output}
        int8 = [node for node in graph.node if self._is_int8(node)]
        self.int8 = {node.output[0] for node in int8}
        # convolutions, whose kernels write int8 too
        self.whole = {node.output[0] for node in int8 if node.op_type in CONVOLUTIONS}
        self.between = self._between()
        self.only = self._outputs() if self.dialect.outputs else set()

    def _is_int8(self, node: onnx.NodeProto) -> bool:
        return is_int8(node, self.name, self.plan, self.dialect, self.weights)

    def _between(self) -> set[str]:
        """Return the joining operators that an int8 output reaches through such operators alone."""
        between: set[str] = set()
        for node in self.model.graph.node:
            if node.op_type in self.dialect.between and any(
                (maker := self.maker.get(t)) is not None and maker.output[0] in self.whole | between
                for t in node.input
            ):
                between.add(node.output[0])
        return between

    def _outputs(self) -> set[str]:
        """Return the outputs of int8 convolutions, behind the ReLU that is part of their kernel:
        every reader gets their Q/DQ pair.
        """
        written = {
            self.readers[t][0].output[0] if self._fuses_with_relu(t) else t for t in self.whole
        }
        return written - self.ends

    def quantized(self) -> set[str]:
        """Return the tensors that get a Q/DQ pair."""
        tensors = set(self.only)
        for node in self.model.graph.node:
            if node.output[0] in self.int8:
                tensors.add(node.input[0])
            if node.output[0] in self.between:
                tensors.update(
                    t for t in node.input if t in self.floats and not self._constant_node(t)
                )
            if (
                self.dialect.between
                and node.output[0] in self.whole | self.between
                and self._reads_quantized(node.output[0])
            ):
                tensors.add(node.output[0])
        # Conv -> Relu -> Q is one kernel: a pair inside it would split the kernel and cost
        # precision
        return {t for t in tensors if not self._fuses_with_relu(t)}

    def _reads_quantized(self, tensor: str) -> bool:
        return any(r.output[0] in self.int8 | self.between for r in self.readers[tensor])

    def _constant_node(self, tensor: str) -> bool:
        return tensor in self.maker and self.maker[tensor].op_type == "Constant"

    def _fuses_with_relu(self, tensor: str) -> bool:
        maker, readers = self.maker.get(tensor), self.readers[tensor]
        return (
            maker is not None
            and maker.output[0] in self.int8 | self.between
            and len(readers) == 1
            and readers[0].op_type == "Relu"
        )

    def run(self) -> onnx.ModelProto:
        quantized, scales = self.quantized(), {}
        for value in self.model.graph.input:
            if value.name in quantized:
                scales[value.name] = self._pair(value.name)
        for node in self.model.graph.node:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            inside = node.output[0] in self.int8 | self.between
            new.input[:] = [
                f"{t}.dq" if t in (quantized if inside else self.only) else t for t in node.input
            ]
            if node.output[0] in self.int8:
                self._weight(new, node, scales[node.input[0]])
            new.output[:] = [f"{t}.phases" if t in self.moves else t for t in node.output]
            self.nodes.append(new)
            for tensor in node.output:
                if tensor in quantized:
                    scales[tensor] = self._pair(tensor)
                if tensor in self.moves and self._is_read_in_float(tensor, quantized):
                    self._move(tensor, f"{tensor}.phases", tensor)
        return self._model()

    def _is_read_in_float(self, tensor: str, quantized: set[str]) -> bool:
        inside = self.int8 | self.between
        return tensor in self.ends or any(
            tensor not in (quantized if reader.output[0] in inside else self.only)
            for reader in self.readers[tensor]
        )

    def _move(self, tensor: str, source: str, target: str) -> None:
        self.nodes.extend(self.moves[tensor].nodes(source, target, self._constant))

    def _pair(self, tensor: str) -> Scale:
        seen = self.plan.ranges.get(self.name, {}).get(tensor)
        if seen is None:
            raise InputError(
                "E-PLAN",
                f"{self.name}/{tensor} is int8 but the plan has no range for it",
                hint="calibrate again",
            )
        scale = Scale.of(seen, self.dialect)
        dtype = TYPES[scale.kind][1]
        self._constant(f"{tensor}.scale", np.asarray(scale.scale))
        self._constant(f"{tensor}.zero", np.asarray(scale.zero_point, dtype))
        code = [f"{tensor}.scale", f"{tensor}.zero"]
        # the move applies to integers
        made = f"{tensor}.phases" if tensor in self.moves else tensor
        self.nodes.append(
            helper.make_node("QuantizeLinear", [made, *code], [f"{made}.q"], f"{tensor}.Q")
        )
        if tensor in self.moves:
            self._move(tensor, f"{made}.q", f"{tensor}.q")
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{tensor}.q", *code], [f"{tensor}.dq"], f"{tensor}.DQ"
            )
        )
        return scale

    def _weight(self, new: onnx.NodeProto, node: onnx.NodeProto, data: Scale) -> None:
        """Write int8 weights, symmetric with one scale for each output channel, and the bias as the
        dialect wants it.
        """
        axis = weight_axis(node)
        rounded, largest = (
            rounded_name(node.input[1], self.dialect.weight_bits),
            self.dialect.largest_weight,
        )
        weight = self._values(rounded if rounded in self.weights else node.input[1])
        others = tuple(k for k in range(weight.ndim) if k != axis)
        scale = np.abs(weight).max(axis=others) / largest
        bias = None
        if (
            self.dialect.int32_bias
            and len(node.input) > 2
            and node.input[2] in self.weights
            and self.weights.shape(node.input[2]) == scale.shape
        ):
            bias = self._values(node.input[2])
            # without this the bias of a dead channel overflows
            scale = np.maximum(scale, np.abs(bias) / (float(data.scale) * INT32))
        scale = np.where(scale > 0, np.maximum(scale, SMALLEST), 1)
        if not self.dialect.per_channel_weights:
            scale[:] = scale.max()
        steps = _written(scale, self.dialect)
        shaped = np.expand_dims(steps, others)
        new.input[1] = self._dequantized(
            node.input[1],
            np.clip(np.rint(weight / shaped), -largest, largest).astype(np.int8),
            steps,
            axis,
        )
        if bias is not None:
            steps = steps * data.scale
            new.input[2] = self._dequantized(
                node.input[2],
                np.clip(np.rint(bias / steps.astype(np.float64)), -INT32, INT32).astype(np.int32),
                steps,
            )

    def _values(self, name: str) -> np.ndarray:
        """Return a constant as float64. Raises InputError if it is not finite, because as int8 it
        would be an ordinary number.
        """
        values = self.weights[name].astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError(
                "E-NONFINITE",
                f"{self.name}/{name} holds NaN or infinite values; INT8 would hide them",
            )
        return values

    def _dequantized(self, name: str, values: np.ndarray, scale: np.ndarray, axis: int = 0) -> str:
        """Return the tensor that dequantizes `values`; readers that want the same share one."""
        key = (name, scale.tobytes())
        if key not in self.written:
            count = sum(known == name for known, _ in self.written)
            prefix = f"{name}.{count}" if count else name
            self._constant(f"{prefix}.int", values)
            self._constant(f"{prefix}.scale", scale)
            self._constant(f"{prefix}.zero", np.zeros(scale.shape, values.dtype))
            code = [f"{prefix}.int", f"{prefix}.scale", f"{prefix}.zero"]
            self.nodes.append(
                helper.make_node(
                    "DequantizeLinear", code, [f"{prefix}.dq"], f"{prefix}.DQ", axis=axis
                )
            )
            self.written[key] = f"{prefix}.dq"
        return self.written[key]

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.constants.append(constant(values, name, self.apart))

    def _model(self) -> onnx.ModelProto:
        out = onnx.ModelProto()
        out.CopyFrom(self.model)
        # the nodes that made a weight which is now int8 have no reader
        nodes = self.weights.kept(self.nodes, self.ends)
        used = {t for node in nodes for t in node.input}
        initializers = [t for t in self.model.graph.initializer if t.name in used]
        del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
        out.graph.node.extend(nodes)
        out.graph.initializer.extend([*initializers, *self.constants])
        storage.store(out, self.dialect)
        sound.check(out)
        return out


def quantize(model: onnx.ModelProto, name: str, plan: Plan, dialect: Dialect) -> onnx.ModelProto:
    """Return a new model with Q/DQ as `plan` says for graph `name`. Raises InputError if a tensor
    that it needs has no range.
    """
    quantized = _QdqWriter(model, name, plan, dialect).run()
    return half(quantized, plan.ranges.get(name, {})) if dialect.floats == "float16" else quantized


def quantized_tensors(model: onnx.ModelProto, name: str, plan: Plan, dialect: Dialect) -> set[str]:
    """Return the tensors that get a Q/DQ pair in what `quantize` would write."""
    return _QdqWriter(model, name, plan, dialect).quantized()


def is_int8(
    node: onnx.NodeProto, graph: str, plan: Plan, dialect: Dialect, constants: GraphConstants
) -> bool:
    """Return whether the node of that graph becomes int8."""
    operator = "Conv" if dialect.phases and has_phases(node, constants) else node.op_type
    return (
        operator in dialect.int8_ops
        and is_layer(node, constants)
        and plan.speaks_of(graph, node.name, node.op_type)
        and plan.precision(graph, node.name) == "int8"
    )


def int8_nodes(
    model: onnx.ModelProto, graph: str, plan: Plan, dialect: Dialect
) -> list[onnx.NodeProto]:
    """Return the nodes that become int8, in graph order."""
    constants = GraphConstants(model.graph)
    return [node for node in model.graph.node if is_int8(node, graph, plan, dialect, constants)]


def check_any(
    models: Mapping[str, onnx.ModelProto], plan: Plan, runtime: str, dialect: Dialect
) -> None:
    """Raise InputError if no node of a generator's graphs would be int8 under the plan with most of
    them, because its INT8 files would then be FP32.
    """
    if not dialect.int8_ops:
        return
    if any(int8_nodes(model, name, plan, dialect) for name, model in models.items()):
        return
    has = sorted({n.op_type for m in models.values() for n in m.graph.node if n.op_type in LAYERS})
    small = " of size" if dialect.int8_ops & LINEAR else ""
    raise InputError(
        "E-NO-INT8",
        f"nothing in these graphs could be INT8 for {runtime}, which quantizes "
        f"{', '.join(sorted(dialect.int8_ops))} with constant weights{small}: they have "
        f"{', '.join(has) or 'no layer with weights'}",
        hint="choose another runtime, or run the model as it is",
    )


def candidates(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the float tensors that a plan may quantize: every input, and every node output whose
    element type is float32, in graph order.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {
        v.name: v.type.tensor_type.elem_type
        for v in [*inferred.graph.value_info, *inferred.graph.output]
    }
    inputs = [v.name for v in model.graph.input]
    constants = GraphConstants(model.graph)
    outputs = [
        t
        for node in model.graph.node
        for t in node.output
        if kinds.get(t) == TensorProto.FLOAT and not constants.is_made(node)
    ]
    return (*inputs, *outputs)
