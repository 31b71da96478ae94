"""Divide the memory that an export may use at a time (`--memory`) between a batch's images, the
second moments of rounding and the pixels that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...core.weights import GraphConstants
from ...errors import UsageError
from ..byte_sizes import FULL, bytes_in_words
from ..context import MemoryShares

if TYPE_CHECKING:
    from onnx import ModelProto

# bytes of the libraries and what they keep, measured with the zoo's generators, and copies of all
# weights, measured with 860 million of them
BESIDE, COPIES = 900 << 20, 2.2
IMAGES, MOMENTS, PIXELS = 0.5, 0.25, 0.125  # shares of what is left after these


def memory_shares(budget: int, models: Mapping[str, ModelProto], threads: int) -> MemoryShares:
    """Return the shares of `budget` bytes: as many images at once as fit for each thread.

    Raises UsageError, with the bytes that are needed, if not even one image fits.
    """
    most = MemoryShares()
    image = max(map(image_bytes, models.values()))
    least = least_bytes(sum(map(_weights, models.values())))
    needed = least + image * threads / IMAGES
    if budget < needed:
        raise UsageError(
            "E-RAM",
            f"an export of this generator with --threads {threads} needs at least "
            f"{bytes_in_words(needed)} of memory, but is allowed only {bytes_in_words(budget)}",
            hint="allow more with --memory if there is more, use fewer --threads, or use a "
            "machine with more memory",
        )
    rest = budget - least
    # a power of two, so that it is the same from run to run
    moments = 2 ** math.floor(math.log2(MOMENTS * rest))
    return MemoryShares(
        min(int(IMAGES * rest / (image * threads)), most.images),
        moments,
        int(min(PIXELS * rest, most.pixels_bytes)),
    )


def least_bytes(weights: int) -> float:
    """Return the bytes that an export of so many weights takes before it holds an image."""
    return BESIDE + COPIES * FULL * weights


def image_bytes(model: ModelProto) -> int:
    """Return the bytes of all layers' inputs for one image, which a calibration holds at
    a time.

    An axis whose size shape inference does not know counts once.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    values = [*inferred.graph.value_info, *inferred.graph.input]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    constants = GraphConstants(model.graph)
    read = {
        node.input[0]
        for node in model.graph.node
        if len(node.input) > 1 and node.input[1] in constants and node.input[0] in shapes
    }
    return FULL * sum(math.prod(max(n, 1) for n in shapes[tensor]) for tensor in read)


def _weights(model: ModelProto) -> int:
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
