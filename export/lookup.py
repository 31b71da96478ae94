"""Look up the tensors of an ONNX model: which node writes one, which read it, and whether it is
quantized.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto

INT8_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Lookup:
    """Index a model by its tensors."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants |= {
                    name: a.t for name in node.output for a in node.attribute if a.name == "value"
                }
            if node.op_type == "Cast" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
        self.outputs = {v.name for v in model.graph.output}
        self.maker = {t: n for n in self.nodes for t in n.output if t}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for tensor in node.input:
                self.readers[tensor].append(node)

    def made_by(self, tensor: str, *ops: str) -> NodeProto | None:
        """Return the node that writes `tensor` if it is one of `ops`, else None."""
        node = self.maker.get(tensor)
        return node if node is not None and node.op_type in ops else None

    def pairs(self) -> Iterator[tuple[NodeProto, str]]:
        """Yield the QuantizeLinear and DequantizeLinear nodes with their zero point ("" if it is
        left out).
        """
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield node, node.input[2] if len(node.input) > 2 else ""

    def int8(self) -> Iterator[NodeProto]:
        """Yield the nodes that could run in INT8: their data input comes from a
        DequantizeLinear.
        """
        for node in self.nodes:
            if node.op_type in INT8_OPS and self.made_by(node.input[0], "DequantizeLinear"):
                yield node

    def weight(self, node: NodeProto) -> TensorProto | None:
        """Return the node's constant weight, quantized or not."""
        source = self.made_by(node.input[1], "DequantizeLinear")
        return self.constants.get(source.input[0] if source is not None else node.input[1])

    def quantized(self, node: NodeProto) -> bool:
        """Return whether the node's output is quantized, directly or after an activation that is
        part of its kernel.
        """
        readers = self.readers[node.output[0]]
        if len(readers) == 1 and readers[0].op_type in ("Clip", "LeakyRelu", "Relu"):
            readers = self.readers[readers[0].output[0]]
        return any(r.op_type == "QuantizeLinear" for r in readers)

    def dtype(self, node: NodeProto, zero: str) -> int:
        """Return the quantized type of a Q or DQ node with that zero point; 0 if the file does not
        say it plainly.
        """
        if zero in self.constants:
            return self.constants[zero].data_type
        if node.op_type == "DequantizeLinear":
            return self.constants[node.input[0]].data_type if node.input[0] in self.constants else 0
        dtype = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
        return dtype or (TensorProto.UINT8 if not zero else 0)  # the default of ONNX


def every_node(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of all graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from every_node(inner)
