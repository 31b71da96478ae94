"""Store large float weights in float16, half the bytes, with a Cast to float32 behind them: the
graph computes in float32 as before.

What stays float in an INT8 file takes four times the bytes of what does not. A runtime whose
dialect asks for this restores such weights once, when it loads the file (decision 18 has the
times).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgegen.core.runtime import Dialect
from edgegen.core.weight_file import constant
from edgegen.core.weights import STORED, WORTH_HALVING, is_apart, stored

# largest relative error of a weight, both by the root of summed squares: half a step of float16's
# 11 bits. Only numbers below its normal ones (6.1e-5) and above its largest (65504) bring a weight
# beyond it.
BOUND = 2.0**-11
_CODED = frozenset({"QuantizeLinear", "DequantizeLinear"})


def store(model: onnx.ModelProto, dialect: Dialect) -> None:
    """Store an INT8 file's large float32 weights, in place, as the dialect says.

    Those that float16 cannot hold within BOUND stay, and so do scales and zero points.
    """
    if dialect.stored == "float32":
        return
    graph = model.graph
    keep = {name for n in graph.node if n.op_type in _CODED for name in n.input[1:]}
    keep.update(value.name for value in graph.input)  # old files list constants among their inputs
    apart = any(map(is_apart, graph.initializer))
    casts = []
    for tensor in graph.initializer:
        name = tensor.name
        if name in keep or not _is_large(tensor) or (near := in_half(stored(tensor))) is None:
            continue
        tensor.CopyFrom(constant(near, f"{name}.{STORED}", apart))
        casts.append(
            helper.make_node(
                "Cast", [tensor.name], [name], f"{name}.Restored", to=TensorProto.FLOAT
            )
        )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _is_large(tensor: TensorProto) -> bool:
    """Return whether it is a float32 matrix or kernel of size.

    A bias or the factors of a norm, which have only one axis longer than 1, are not, however many
    channels there are.
    """
    longer = [size for size in tensor.dims if size > 1]
    size = int(np.prod(longer))
    return tensor.data_type == TensorProto.FLOAT and len(longer) > 1 and size >= WORTH_HALVING


def in_half(values: np.ndarray) -> np.ndarray | None:
    """Return the nearest float16 numbers; None if one overflows or more than BOUND is lost."""
    exact = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        near: np.ndarray = values.astype(np.float16)
        lost = np.square(near - exact).sum()
    # NaN or infinite values are never within the bound
    return near if lost <= BOUND**2 * np.square(exact).sum() < np.inf else None
