"""int8 weights of 7 bits where a processor's sums of products would overflow with 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from onnx import numpy_helper

from edgegen.core.runtime import Dialect
from edgegen.export import qdq, runtime


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_use_as_many_bits_as_the_dialect_has(bits: int) -> None:
    model = tiny.conv_net((3, 4), (4, 4))
    file = qdq.quantize(model, "g", tiny.everything_int8(model), Dialect(weight_bits=bits))
    found = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
    weights = [v for name, v in found.items() if v.dtype == np.int8 and v.ndim == 4]
    assert len(weights) == 2
    assert all(
        np.abs(w.astype(int)).max() == Dialect(weight_bits=bits).largest_weight for w in weights
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_no_sum_of_products_overflows_on_this_machine(name: str, tmp_path: Path) -> None:
    """Where all activations and weights are as large as they can be: x86 without VNNI adds two
    products in 16 bits, and 8-bit weights would be cut off there.
    """
    target = runtime(name)
    if why := target.cannot_run():
        pytest.skip(why)
    model = tiny.conv_net((16, 16), (16, 16))
    for tensor in model.graph.initializer:
        full = np.ones(tuple(tensor.dims), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(full / full[0].size, tensor.name))
    file = tmp_path / "g.onnx"
    plan = tiny.everything_int8(model, low=0.0, high=4.0)
    onnx.save(qdq.quantize(model, "g", plan, target.dialect), file)
    (built := tmp_path / "built").mkdir()
    x = np.full((1, 16, 8, 8), 4.0, np.float32)
    ran = target.load(target.build(file, built)[0], 1)(x=x)
    judged = runtime("reference").load(file, 1)(x=x)
    np.testing.assert_allclose(ran, judged, rtol=1e-4)
