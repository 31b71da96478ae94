"""Store weights of an OpenVINO model in half the bytes if that loses nothing.

OpenVINO's converter restores float16 weights to float32 (export/storage.py says why they are stored
so), and its own compression would also round scales and small constants.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from edgegen.core.weights import WORTH_HALVING

if TYPE_CHECKING:
    from openvino import Model


def held_in_half(model: Model, ov: ModuleType) -> None:
    """Rewrite an openvino.Model in place: large float32 constants that float16 holds exactly become
    float16 ones with a Convert behind them.

    `ov` is the openvino package.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        values = node.data
        if values.size < WORTH_HALVING or (near := _exactly(values)) is None:
            continue
        name, readers = node.get_friendly_name(), node.output(0).get_target_inputs()
        held = ov.opset13.constant(near)
        restored = ov.opset13.convert(held, "f32")
        held.set_friendly_name(f"{name}.stored")
        restored.set_friendly_name(f"{name}.restored")
        for reader in readers:
            reader.replace_source_output(restored.output(0))


def _exactly(values: np.ndarray) -> np.ndarray | None:
    with np.errstate(over="ignore"):
        near: np.ndarray = values.astype(np.float16)
    return near if np.array_equal(near.astype(np.float32), values) else None
