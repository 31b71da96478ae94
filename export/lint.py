"""What a runtime refuses, computes wrongly or runs slowly of an ONNX graph: read off the file,
without the runtime.

A rule is a function that names nodes; a runtime's rules are a table with the remedy. Each was
learnt by running: TensorRT's by building with TensorRT-RTX 1.7.1, the others in ONNX Runtime 1.31
and OpenVINO 2026.4 (tests/test_lint.py runs them again).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from edgegen.errors import UsageError

Level = Literal["error", "warning"]
INT8_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# may run quantized between INT8 ops
JOINING = ("Add", "Clip", "Concat", "LeakyRelu", "MaxPool", "Relu", "Resize")
NARROW = 16  # fewer channels than this fill no INT8 tile of a tensor core
# Operators without an implementation: of every one that ONNX defines, what the parser or the front
# end turned down.
NOT_IN_TENSORRT = frozenset(
    {
        "AffineGrid",
        "Bernoulli",
        "BitCast",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "CenterCropPad",
        "Col2Im",
        "Compress",
        "ConcatFromSequence",
        "ConvInteger",
        "CumProd",
        "DFT",
        "DeformConv",
        "Det",
        "DynamicQuantizeLinear",
        "ImageDecoder",
        "MatMulInteger",
        "MaxRoiPool",
        "MaxUnpool",
        "MelWeightMatrix",
        "Multinomial",
        "NegativeLogLikelihoodLoss",
        "Optional",
        "OptionalGetElement",
        "OptionalHasElement",
        "QLinearConv",
        "QLinearMatMul",
        "RegexFullMatch",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SequenceMap",
        "SoftmaxCrossEntropyLoss",
        "SplitToSequence",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "SwiGLU",
        "TfIdfVectorizer",
        "Unique",
    }
)
NOT_IN_OPENVINO = frozenset(
    {
        "BitCast",
        "CausalConvWithState",
        "CumProd",
        "DeformConv",
        "Det",
        "ImageDecoder",
        "LinearAttention",
        "MaxUnpool",
        "MelWeightMatrix",
        "RegexFullMatch",
        "SequenceMap",
        "StringConcat",
        "StringNormalizer",
        "StringSplit",
        "SwiGLU",
        "TensorScatter",
        "TfIdfVectorizer",
    }
)
NOT_IN_ONNXRUNTIME = frozenset({"ImageDecoder"})


@dataclass(frozen=True)
class Finding:
    """One node that one rule is about."""

    level: Level
    rule: str
    node: str
    what: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class Lookup:
    """A model, looked up by tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {t.name: t for t in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants |= {
                    name: a.t for name in node.output for a in node.attribute if a.name == "value"
                }
        self.outputs = {v.name for v in model.graph.output}
        self.maker = {t: n for n in self.nodes for t in n.output if t}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for tensor in node.input:
                self.readers[tensor].append(node)

    def made_by(self, tensor: str, *ops: str) -> NodeProto | None:
        """The node that writes `tensor`, if it is one of `ops`."""
        node = self.maker.get(tensor)
        return node if node is not None and node.op_type in ops else None

    def pairs(self) -> Iterator[tuple[NodeProto, str]]:
        """QuantizeLinear and DequantizeLinear nodes with their zero point ("" where it is left
        out).
        """
        for node in self.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                yield node, node.input[2] if len(node.input) > 2 else ""

    def int8(self) -> Iterator[NodeProto]:
        """Nodes that could run in INT8: their data input comes out of a DequantizeLinear."""
        for node in self.nodes:
            if node.op_type in INT8_OPS and self.made_by(node.input[0], "DequantizeLinear"):
                yield node

    def weight(self, node: NodeProto) -> TensorProto | None:
        """Its constant weight, quantized or not."""
        source = self.made_by(node.input[1], "DequantizeLinear")
        return self.constants.get(source.input[0] if source is not None else node.input[1])

    def quantized(self, node: NodeProto) -> bool:
        """Whether its output is, behind the activation that is part of its kernel if there is
        one.
        """
        readers = self.readers[node.output[0]]
        if len(readers) == 1 and readers[0].op_type in ("Clip", "LeakyRelu", "Relu"):
            readers = self.readers[readers[0].output[0]]
        return any(r.op_type == "QuantizeLinear" for r in readers)

    def dtype(self, node: NodeProto, zero: str) -> int:
        """The quantized type of a Q or DQ node with that zero point; 0 where the file does not say
        it plainly.
        """
        if zero in self.constants:
            return self.constants[zero].data_type
        if node.op_type == "DequantizeLinear":
            return self.constants[node.input[0]].data_type if node.input[0] in self.constants else 0
        said = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
        return said or (TensorProto.UINT8 if not zero else 0)  # ONNX's own default


Found = Iterator[tuple[NodeProto | None, str]]  # no node: the whole model
Check = Callable[[Lookup], Found]


def int32_bias(g: Lookup) -> Found:
    for node, _ in g.pairs():
        if node.op_type == "DequantizeLinear" and g.dtype(node, node.input[0]) == TensorProto.INT32:
            yield node, "dequantizes an int32 bias, which the parser refuses"


def zero_point(g: Lookup) -> Found:
    for node, zero in g.pairs():
        if zero in g.constants and (values := numpy_helper.to_array(g.constants[zero])).any():
            yield node, f"has zero point {values[values != 0].flat[0]}, and the parser takes 0 only"


def uint8(g: Lookup) -> Found:
    for node, zero in g.pairs():
        if g.dtype(node, zero) == TensorProto.UINT8:
            weights = node.input[0] in g.constants
            yield (
                node,
                "has uint8 weights, which the parser refuses"
                if weights
                else "is uint8 and would be read as int8: codes above 127 come out negative",
            )


def rounds_for_nothing(g: Lookup) -> Found:
    for node in g.nodes:
        pair = node.op_type == "DequantizeLinear" and g.made_by(node.input[0], "QuantizeLinear")
        if pair and not any(r.op_type in (*INT8_OPS, *JOINING) for r in g.readers[node.output[0]]):
            yield node, "quantizes an output that no INT8 op reads: it rounds and speeds nothing up"


def per_tensor_weight(g: Lookup) -> Found:
    for node in g.int8():
        source = g.made_by(node.input[1], "DequantizeLinear")
        weight = g.weight(node)
        if source is not None and weight is not None and source.input[1] in g.constants:
            scale = g.constants[source.input[1]]
            if int(np.prod(scale.dims)) == 1 and max(weight.dims[:1], default=1) > 1:
                yield (
                    node,
                    "has one scale for all its weights: small channels lose most of their 8 bits",
                )


def narrow(g: Lookup) -> Found:
    for node in g.int8():
        weight = g.weight(node)
        if weight is not None and len(weight.dims) > 1 and min(weight.dims[:2]) < NARROW:
            few = min(weight.dims[:2])
            yield (
                node,
                f"has {few} channels on one side: INT8 kernels work on {NARROW} at a time and "
                "would be slower than FP16",
            )


def float_weight(g: Lookup) -> Found:
    for node in g.int8():
        if node.input[1] in g.constants:
            yield (
                node,
                "reads quantized data but float weights: it runs in float, after rounding for "
                "nothing",
            )


def weight_rounded_unasked(g: Lookup) -> Found:
    for node in g.int8():
        if node.input[1] in g.constants and g.quantized(node):
            yield (
                node,
                "has float weights between quantized tensors: ONNX Runtime rounds them to INT8 "
                "itself, one scale for all",
            )


def float_output(g: Lookup) -> Found:
    for node in g.int8():
        if g.made_by(node.input[1], "DequantizeLinear") and not g.quantized(node):
            yield (
                node,
                "has a float output: no INT8 kernel takes it, and it needs 1.5 times as long as "
                "FP32",
            )


def signed(g: Lookup) -> Found:
    for node, zero in g.pairs():
        if node.op_type == "QuantizeLinear" and g.dtype(node, zero) == TensorProto.INT8:
            yield (
                node,
                "has signed activations, whose CPU kernels are 2 to 4 times slower than unsigned "
                "ones",
            )


def signed_behind_concat(g: Lookup) -> Found:
    for node, zero in g.pairs():
        if (
            node.op_type == "QuantizeLinear"
            and g.dtype(node, zero) == TensorProto.INT8
            and g.made_by(node.input[0], "Concat")
        ):
            read = [r for d in g.readers[node.output[0]] for r in g.readers[d.output[0]]]
            if any(r.op_type in INT8_OPS for r in read):
                yield (
                    node,
                    "puts signed INT8 behind a Concat, which the CPU plug-in has computed wrongly "
                    "(8 dB, unsigned 133 dB)",
                )


def unknown(refused: frozenset[str], domains: frozenset[str] = frozenset({"", "ai.onnx"})) -> Check:
    """Operators that the runtime has no implementation of, in sub-graphs too."""

    def operator(g: Lookup) -> Found:
        for node in _every(g.model.graph):
            if node.domain not in domains:
                yield (
                    node,
                    f"is {node.domain}:{node.op_type}, an operator of a domain it does not know",
                )
            elif node.op_type in refused:
                yield node, f"is {node.op_type}, which it does not implement"

    return operator


def newest(last: int) -> Check:
    def opset(g: Lookup) -> Found:
        for entry in g.model.opset_import:
            if entry.domain in ("", "ai.onnx") and entry.version > last:
                yield None, f"has opset {entry.version}, and {last} is the newest that was run"

    return opset


def _every(graph: onnx.GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _every(inner)


Rule = tuple[Level, Check, str]  # with the remedy
REPLACE = "replace it by operators that the runtime has"
EXPORT = "export with opset 20"
PER_CHANNEL: Rule = (
    "warning",
    per_tensor_weight,
    "quantize weights with one scale an output channel",
)
WEIGHT: Rule = ("warning", float_weight, "quantize the weight too, or take the Q/DQ pair away")
OUTPUT: Rule = ("warning", rounds_for_nothing, "take the Q/DQ pair away")
TENSORRT: tuple[Rule, ...] = (
    ("error", int32_bias, "keep the bias in float32"),
    ("error", zero_point, "quantize symmetrically: int8 with zero point 0"),
    ("error", uint8, "quantize to int8 with zero point 0"),
    ("error", unknown(NOT_IN_TENSORRT), REPLACE),
    ("warning", newest(26), EXPORT),
    OUTPUT,
    PER_CHANNEL,
    WEIGHT,
    ("warning", narrow, "keep it in FP16 or FP32, or give it multiples of 16 channels"),
)
OPENVINO: tuple[Rule, ...] = (
    ("error", signed_behind_concat, "quantize to uint8 with zero point 128"),
    ("error", unknown(NOT_IN_OPENVINO), REPLACE),
    ("warning", newest(28), EXPORT),
    OUTPUT,
    PER_CHANNEL,
    WEIGHT,
)
RULES: dict[str, tuple[Rule, ...]] = {
    "tensorrt": TENSORRT,
    "tensorrt-rtx": TENSORRT,
    "tensorrt-fp16": TENSORRT,
    "tensorrt-rtx-fp16": TENSORRT,
    "onnxruntime-cuda": TENSORRT,
    "onnxruntime-tensorrt": TENSORRT,
    "onnxruntime-openvino": OPENVINO,
    "onnxruntime": (
        (
            "error",
            unknown(NOT_IN_ONNXRUNTIME, frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})),
            REPLACE,
        ),
        ("error", newest(26), EXPORT),
        (
            "warning",
            weight_rounded_unasked,
            'load it as edgegen does, with disabled_optimizers=["WeightBiasQuantization"]',
        ),
        PER_CHANNEL,
        ("warning", signed, "quantize activations to uint8"),
        ("warning", float_output, "quantize its output as well, or keep the op in float"),
    ),
    "openvino": OPENVINO,
}


def lint(model: onnx.ModelProto, runtime: str) -> tuple[Finding, ...]:
    """Errors first, each in graph order. UsageError for a runtime without rules."""
    if runtime not in RULES:
        raise UsageError(
            "E-RUNTIME", f"there are no rules for {runtime!r}; there are for {', '.join(RULES)}"
        )
    g = Lookup(model)
    found = [
        Finding(level, check.__name__.replace("_", "-"), _name(node), what, remedy)
        for level, check, remedy in RULES[runtime]
        for node, what in check(g)
    ]
    return tuple(sorted(found, key=lambda f: f.level))


def _name(node: NodeProto | None) -> str:
    """Nodes of other exporters may have no name: then what they are and write."""
    return (
        "(model)"
        if node is None
        else node.name or f"{node.op_type} -> {next(iter(node.output), '')}"
    )
