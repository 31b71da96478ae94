"""Run EfficientNet-Lite0 on a runtime: the same weights and features in half of torch's time on a
CPU.

Features are half the cost of a verdict on INT8 images. A network stays with torch if this module
has no ONNX form of it or the runtime is not installed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ..core.runtime import Runtime
from ..core.temporary import scratch
from ..evidence.features import FeatureNetwork
from ..evidence.networks import Conv, Lite0, same_padding
from ..export import STAND_IN, runtime


def fast_features(network: FeatureNetwork, host: Runtime | None = None) -> FeatureNetwork:
    """Return the same network, executed by `host`, or by the runtime that executes FP32 here."""
    host = host or runtime(STAND_IN)
    if not isinstance(network.forward, Lite0) or host.cannot_run():
        return network
    with scratch() as folder:
        file = folder / "features.onnx"
        onnx.save(_Writer(network.size).model(network.forward, network.dim), file)
        session = host.load(file, 1)

    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(session(x=x.contiguous().numpy()))

    return replace(network, forward=forward)


class _Writer:
    """Collect the nodes and constants of one graph; `side` is the pixels a side of the features at
    the next node.
    """

    def __init__(self, size: int) -> None:
        self.size = self.side = size
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.low = self._constant("zero", np.float32(0))
        self.high = self._constant("six", np.float32(6))

    def model(self, network: Lite0, dim: int) -> onnx.ModelProto:
        middle, scale = self._constant("mean", np.float32(127)), np.float32(1 / 128)
        x = self._node("Sub", "x", middle)
        x = self._node("Mul", x, self._constant("scale", scale))
        x = self._relu6(self._conv(network.stem, x, 2))
        for block in network.blocks:
            y = self._relu6(self._conv(block.expand, x)) if block.expand else x
            y = self._relu6(self._conv(block.depthwise, y, block.stride))
            y = self._conv(block.project, y)
            x = self._node("Add", x, y) if block.adds else y
        x = self._relu6(self._conv(network.head, x))
        axes = self._constant("axes", np.array([2, 3], np.int64))
        self.nodes.append(helper.make_node("ReduceMean", [x, axes], ["y"], keepdims=0))
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "features",
            [value("x", TensorProto.FLOAT, ["batch", 3, self.size, self.size])],
            [value("y", TensorProto.FLOAT, ["batch", dim])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def _conv(self, conv: Conv, x: str, stride: int = 1) -> str:
        kernel = conv.weight.shape[2]
        added = same_padding(conv, self.side, stride) if stride > 1 else kernel - 1
        before, behind = added // 2, added - added // 2
        name = f"conv{len(self.nodes)}"
        inputs = [
            x,
            self._constant(f"{name}.weight", conv.weight.contiguous().numpy()),
            self._constant(f"{name}.bias", conv.bias.numpy()),
        ]
        channels = conv.weight.shape[0] if conv.weight.shape[1] == 1 and kernel > 1 else 1
        self.side = (self.side + added - kernel) // stride + 1
        return self._node(
            "Conv",
            *inputs,
            strides=[stride, stride],
            pads=[before, before, behind, behind],
            group=channels,
        )

    def _relu6(self, x: str) -> str:
        return self._node("Clip", x, self.low, self.high)

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def _constant(self, name: str, values: np.ndarray | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
