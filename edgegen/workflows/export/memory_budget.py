"""How much memory an export may use at a time (`--memory`), and what follows from it: the number of
images of a batch, the second moments of rounding, and the pixels that are kept.
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

# the bytes that libraries keep, as measured with the zoo, and the number of copies of all weights,
# as measured with 860 million of them
BESIDE, COPIES = 900 << 20, 2.2
IMAGES, MOMENTS, PIXELS = 0.5, 0.25, 0.125  # shares of the memory that these leave
# Two sessions compare full precision with INT8, and a session keeps the memory that its largest
# batch took. With a model of 128 px, the verdict otherwise took 15 GB of a budget of 11.
SESSIONS = 2


def memory_shares(budget: int, models: Mapping[str, ModelProto], threads: int) -> MemoryShares:
    """Divide a budget in bytes among the images of a batch (per thread), the second moments and the
    pixels that are kept.

    UsageError, which says how much is needed, if the budget does not hold one image per thread.
    """
    most = MemoryShares()
    image = max(map(image_bytes, models.values()))
    least = least_bytes(sum(map(_weights, models.values())))
    each = SESSIONS * image * threads  # one image of each thread
    needed = least + each / IMAGES
    if budget < needed:
        raise UsageError(
            "E-RAM",
            f"an export of this generator with --threads {threads} needs at least "
            f"{bytes_in_words(needed)} of memory, but is allowed only {bytes_in_words(budget)}",
            hint="allow more with --memory if there is more, use fewer --threads, or use a "
            "machine with more memory",
        )
    rest = budget - least
    moments = 2 ** math.floor(math.log2(MOMENTS * rest))  # so that runs agree
    return MemoryShares(
        min(int(IMAGES * rest / each), most.images),
        moments,
        int(min(PIXELS * rest, most.pixels_bytes)),
    )


def least_bytes(weights: int) -> float:
    """Return the bytes that an export of so many weights takes before it holds an image."""
    return BESIDE + COPIES * FULL * weights


def image_bytes(model: ModelProto) -> int:
    """Return the bytes of everything that the layers of a graph read for one image, which is what a
    calibration holds at a time. An axis that shape inference does not know counts once.
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
