"""Cut layers out of a Q/DQ file one by one, with everything that rounds around them: for a large
graph, this is what the numpy referee can execute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper

from edgegen.core.layers import LAYERS
from edgegen.core.weight_file import located, write_model

from .lookup import Lookup

IN, PLAIN, OUT = "excerpt_in", "excerpt_plain", "excerpt_out"


@dataclass(frozen=True)
class Excerpt:
    """Name a layer and the tensor of the whole file that it rounds and multiplies (`reads`)."""

    layer: str
    reads: str


class Excerpts:
    """Cut layers out of a file that qdq.quantize made, with its weights beside it."""

    def __init__(self, path: Path) -> None:
        bare = onnx.load(str(path), load_external_data=False)
        self.model = located(bare, path.parent)
        self._lookup = Lookup(self.model)
        inferred = onnx.shape_inference.infer_shapes(self.model).graph
        values = [*inferred.value_info, *inferred.input, *inferred.output]
        self._kinds = {v.name: v.type.tensor_type.elem_type for v in values}

    def sample(self, count: int) -> list[Excerpt]:
        """Return `count` INT8 layers, evenly chosen from the first to the last."""
        layers = [
            Excerpt(node.name, before.input[0])
            for node in self.model.graph.node
            if node.op_type in LAYERS and (before := self._rounds(node)) is not None
        ]
        if len(layers) <= count:
            return layers
        return [layers[k * (len(layers) - 1) // (count - 1)] for k in range(count)]

    def write(self, one: Excerpt, shape: Sequence[int], folder: Path) -> tuple[Path, Path]:
        """Write two files, IN -> OUT in float32: the layer as it is, and the layer without what
        rounds activations.

        `shape` is that of its input, with the images as first axis.
        """
        node = next(n for n in self.model.graph.node if n.name == one.layer)
        rounds = self._rounds(node)
        assert rounds is not None
        constants = [n for name in node.input[1:] for n in self._behind(name)]
        behind, after = self._ahead(node)
        pair = [rounds, self._lookup.maker[node.input[0]]]
        exact = NodeProto()
        exact.CopyFrom(node)
        exact.input[0] = PLAIN
        kind = self._kinds.get(node.input[0], TensorProto.FLOAT)
        cast = helper.make_node("Cast", [one.reads], [PLAIN], "plain", to=kind)
        plain = [cast, exact, *behind]
        files = folder / "rounded.onnx", folder / "exact.onnx"
        for path, nodes in zip(
            files, ([*constants, *pair, node, *behind, *after], [*constants, *plain]), strict=True
        ):
            write_model(self._model(nodes, one.reads, shape), path)
        return files

    def _rounds(self, node: NodeProto) -> NodeProto | None:
        """Return the QuantizeLinear whose codes the node multiplies; None if the node is
        not INT8.
        """
        weight = self._lookup.made_by(node.input[1], "DequantizeLinear")
        data = self._lookup.made_by(node.input[0], "DequantizeLinear")
        if data is None or weight is None:
            return None
        return self._lookup.made_by(data.input[0], "QuantizeLinear")

    def _behind(self, name: str) -> list[NodeProto]:
        """Return the nodes that make a constant, in order."""
        if (node := self._lookup.maker.get(name)) is None:
            return []
        return [*(n for before in node.input for n in self._behind(before)), node]

    def _ahead(self, node: NodeProto) -> tuple[list[NodeProto], list[NodeProto]]:
        """Return the ReLU that is part of the node's kernel, and what rounds its output."""
        behind: list[NodeProto] = []
        readers = self._lookup.readers[node.output[0]]
        if len(readers) == 1 and readers[0].op_type == "Relu":
            behind, readers = [readers[0]], self._lookup.readers[readers[0].output[0]]
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            return behind, []
        return behind, [readers[0], self._lookup.readers[readers[0].output[0]][0]]

    def _model(
        self, nodes: Sequence[NodeProto], reads: str, shape: Sequence[int]
    ) -> onnx.ModelProto:
        """Return a model of these nodes between casts from float32 and back, with the constants
        that they read.
        """
        ends = nodes[-1].output[0]
        kind = self._kinds.get(reads, TensorProto.FLOAT)
        used = {name for node in nodes for name in node.input}
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("Cast", [IN], [reads], "into", to=kind),
                *nodes,
                helper.make_node("Cast", [ends], [OUT], "back", to=TensorProto.FLOAT),
            ],
            "excerpt",
            [value(IN, TensorProto.FLOAT, ["batch", *shape[1:]])],
            # a layer keeps the rank of what it reads; checks refuse an output without one
            [value(OUT, TensorProto.FLOAT, [None] * len(shape))],
            [t for t in self.model.graph.initializer if t.name in used],
        )
        return helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )
