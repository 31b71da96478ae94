"""Define the rules of lint: each is a function that names nodes; a runtime's rules are a table with
the remedies.

Each was found by running: TensorRT's by building with TensorRT-RTX 1.7.1, the others in ONNX
Runtime 1.31 and OpenVINO 2026.4 (tests/test_lint.py runs them again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto

from edgegen.core.layers import LINEAR
from edgegen.core.weights import stored

from .lookup import INT8_OPS, Lookup, every_node

Level = Literal["error", "warning"]
# operators that may run quantized between INT8 operators
JOINING = ("Add", "Clip", "Concat", "LeakyRelu", "MaxPool", "Relu", "Resize")
NARROW = 16  # fewer channels than this do not fill an INT8 tile of a tensor core
# Operators without an implementation: every operator that ONNX defines was tried, and these were
# refused by the parser or the front end.
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


# without a node, the finding is about the whole model
Found = Iterator[tuple[NodeProto | None, str]]
Check = Callable[[Lookup], Found]


def int32_bias(g: Lookup) -> Found:
    for node, _ in g.pairs():
        if node.op_type == "DequantizeLinear" and g.dtype(node, node.input[0]) == TensorProto.INT32:
            yield node, "dequantizes an int32 bias, which the parser refuses"


def zero_point(g: Lookup) -> Found:
    for node, zero in g.pairs():
        if zero in g.constants and (values := stored(g.constants[zero])).any():
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
        if node.op_type in LINEAR:  # a kernel for this operator writes float as fast
            continue
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
    """Return a check for operators that the runtime does not implement, in sub-graphs too."""

    def operator(g: Lookup) -> Found:
        for node in every_node(g.model.graph):
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


Rule = tuple[Level, Check, str]  # level, check and remedy
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
