"""Q/DQ written into an FP32 ONNX graph as a Plan says, in the form a Dialect wants.

int8 nodes read quantized inputs and int8 constant weights. In a dialect with `between`, the outputs of int8 nodes and the
ops that join them are quantized as well, so that nothing runs in float until a node that the plan keeps in float.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect
from edgegen.errors import InputError

TYPES = {"int8": (TensorProto.INT8, np.int8, -128, 127), "uint8": (TensorProto.UINT8, np.uint8, 0, 255)}


@dataclass(frozen=True)
class Scale:
    """real = scale * (quantized - zero_point)."""

    scale: np.float32
    zero_point: int
    kind: str

    @classmethod
    def of(cls, seen: Range, dialect: Dialect) -> Scale:
        """The affine code that covers a range; a constant zero gets scale 1."""
        _, _, low, high = TYPES[dialect.activation]
        if dialect.symmetric:
            half = max(-seen.low, seen.high)
            return cls(np.float32(half / 127 if half else 1), 0 if dialect.activation == "int8" else 128, dialect.activation)
        scale = np.float32((seen.high - seen.low) / 255 or 1)
        return cls(scale, int(np.clip(np.rint(low - seen.low / scale), low, high)), dialect.activation)


@dataclass
class _Writer:
    model: onnx.ModelProto
    name: str
    plan: Plan
    dialect: Dialect
    nodes: list[onnx.NodeProto] = field(default_factory=list)   # of the new graph, in order
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.weights = {t.name: t for t in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.maker: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            for tensor in node.input:
                self.readers[tensor].append(node)
            for tensor in node.output:
                self.maker[tensor] = node
        self.int8 = {n.name for n in graph.node if self._quantizable(n)}
        self.between = self._between()

    def _quantizable(self, node: onnx.NodeProto) -> bool:
        return (node.op_type in self.dialect.int8_ops and self.plan.precision(self.name, node.name) == "int8"
                and node.input[1] in self.weights)

    def _between(self) -> set[str]:
        """Joining ops that an int8 node's output reaches through joining ops alone."""
        found: set[str] = set()
        for node in self.model.graph.node:
            if node.op_type in self.dialect.between and any(
                (made := self.maker.get(t)) is not None and (made.name in self.int8 or made.name in found) for t in node.input
            ):
                found.add(node.name)
        return found

    def _quantized(self) -> set[str]:
        """Tensors that get a Q/DQ pair."""
        found: set[str] = set()
        for node in self.model.graph.node:
            if node.name in self.int8:
                found.add(node.input[0])
            if node.name in self.between:
                found.update(t for t in node.input if t and t not in self.weights)
            if self.dialect.between and node.name in self.int8 | self.between and self._reads_quantized(node.output[0]):
                found.add(node.output[0])
        # Conv -> Relu -> Q is one kernel: a pair between them would break it and cost precision
        return {t for t in found if not self._fuses_with_relu(t)}

    def _reads_quantized(self, tensor: str) -> bool:
        return any(r.name in self.int8 | self.between for r in self.readers[tensor])

    def _fuses_with_relu(self, tensor: str) -> bool:
        made, readers = self.maker.get(tensor), self.readers[tensor]
        return made is not None and made.name in self.int8 | self.between and len(readers) == 1 and readers[0].op_type == "Relu"

    def run(self) -> onnx.ModelProto:
        quantized, scales = self._quantized(), {}
        for value in self.model.graph.input:
            if value.name in quantized:
                scales[value.name] = self._pair(value.name)
        for node in self.model.graph.node:
            new = onnx.NodeProto()
            new.CopyFrom(node)
            if node.name in self.int8 | self.between:
                new.input[:] = [f"{t}.dq" if t in quantized else t for t in node.input]
            if node.name in self.int8:
                self._weight(new, node, scales[node.input[0]])
            self.nodes.append(new)
            for tensor in node.output:
                if tensor in quantized:
                    scales[tensor] = self._pair(tensor)
        return self._model()

    def _pair(self, tensor: str) -> Scale:
        seen = self.plan.ranges.get(self.name, {}).get(tensor)
        if seen is None:
            raise InputError("E-PLAN", f"{self.name}/{tensor} is int8 but the plan has no range for it", hint="calibrate again")
        scale = Scale.of(seen, self.dialect)
        dtype = TYPES[scale.kind][1]
        self._constant(f"{tensor}.scale", np.asarray(scale.scale))
        self._constant(f"{tensor}.zero", np.asarray(scale.zero_point, dtype))
        code = [f"{tensor}.scale", f"{tensor}.zero"]
        self.nodes.append(helper.make_node("QuantizeLinear", [tensor, *code], [f"{tensor}.q"], f"{tensor}.Q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.q", *code], [f"{tensor}.dq"], f"{tensor}.DQ"))
        return scale

    def _weight(self, new: onnx.NodeProto, node: onnx.NodeProto, data: Scale) -> None:
        """int8 weights, symmetric, one scale an output channel (axis 0), and the bias as the dialect wants it."""
        name = node.input[1]
        weight = numpy_helper.to_array(self.weights[name])
        flat = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        scale = np.where(flat > 0, flat / 127, 1).astype(np.float32)
        if not self.dialect.per_channel_weights:
            scale[:] = scale.max()
        shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
        self._dequantized(name, np.clip(np.rint(weight / shaped), -127, 127).astype(np.int8), scale)
        new.input[1] = f"{name}.dq"
        if self.dialect.int32_bias and len(node.input) > 2:
            bias = numpy_helper.to_array(self.weights[node.input[2]]).astype(np.float64)
            steps = scale * data.scale
            limit = 2.0**31 - 128
            self._dequantized(node.input[2], np.clip(np.rint(bias / steps), -limit, limit).astype(np.int32), steps)
            new.input[2] = f"{node.input[2]}.dq"

    def _dequantized(self, name: str, values: np.ndarray, scale: np.ndarray) -> None:
        self._constant(f"{name}.int", values)
        self._constant(f"{name}.scale", scale.astype(np.float32))
        self._constant(f"{name}.zero", np.zeros(scale.shape, values.dtype))
        code = [f"{name}.int", f"{name}.scale", f"{name}.zero"]
        self.nodes.append(helper.make_node("DequantizeLinear", code, [f"{name}.dq"], f"{name}.DQ", axis=0))

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.constants.append(numpy_helper.from_array(values, name))

    def _model(self) -> onnx.ModelProto:
        out = onnx.ModelProto()
        out.CopyFrom(self.model)
        used = {t for node in self.nodes for t in node.input}
        kept = [t for t in self.model.graph.initializer if t.name in used]
        del out.graph.node[:], out.graph.initializer[:], out.graph.value_info[:]
        out.graph.node.extend(self.nodes)
        out.graph.initializer.extend([*kept, *self.constants])
        onnx.checker.check_model(out, full_check=True)
        return out


def quantize(model: onnx.ModelProto, name: str, plan: Plan, dialect: Dialect) -> onnx.ModelProto:
    """A new model with Q/DQ as `plan` says for graph `name`. InputError when a tensor it needs has no range."""
    return _Writer(model, name, plan, dialect).run()


def candidates(model: onnx.ModelProto) -> tuple[str, ...]:
    """Float tensors a plan may quantize: every input and node output whose element type is float32, in graph order."""
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in [*inferred.graph.value_info, *inferred.graph.output]}
    inputs = [v.name for v in model.graph.input]
    outputs = [t for node in model.graph.node for t in node.output if kinds.get(t) == TensorProto.FLOAT]
    return (*inputs, *outputs)
