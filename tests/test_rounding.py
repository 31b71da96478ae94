"""Weights rounded by what they multiply: on the grid, with the scale they had, and with less error
at the output than nearest.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper, numpy_helper

from edgegen.calibrate import rounding
from edgegen.calibrate.rounding import (
    SMALLEST_BLOCK,
    WeightMoments,
    block_size,
    blocks,
    on_grid,
    rounded,
)
from edgegen.core.plan import Plan, Range, is_rounded, rounded_name
from edgegen.core.runtime import Dialect
from edgegen.export import qdq

RNG = np.random.default_rng(0)


def seen(features: int, samples: int = 4000, sources: int = 3) -> np.ndarray:
    """Samples whose features hang together."""
    mixed = RNG.normal(size=(samples, sources)) @ RNG.normal(size=(sources, features))
    out: np.ndarray = mixed + 0.1 * RNG.normal(size=(samples, features)) + 0.5
    return out


def scale_of(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(1, keepdims=True) / 127


def nearest(weight: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.rint(weight / scale_of(weight)) * scale_of(weight)
    return out


def test_the_output_is_nearer_than_with_nearest_rounding_on_samples_not_seen() -> None:
    x, weight = seen(40), RNG.normal(size=(8, 40))
    made = on_grid(weight, [x[:2000].T @ x[:2000]])
    fresh = x[2000:]
    before, after = (np.square(fresh @ (w - weight).T).mean() for w in (nearest(weight), made))
    assert after < 0.2 * before, (after, before)


def test_all_are_whole_multiples_of_the_scale_that_nearest_rounding_has() -> None:
    """Also where what others broke would move the largest weight itself."""
    for sources in (1, 3) * 10:
        x, weight = seen(30, 200, sources), RNG.normal(size=(5, 30))
        made = on_grid(weight, [x.T @ x])
        steps = made / scale_of(weight)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
        np.testing.assert_allclose(scale_of(made), scale_of(weight), rtol=1e-12)
        assert np.abs(np.rint(steps)).max() == 127


def test_features_that_do_not_hang_together_are_rounded_to_nearest() -> None:
    weight = RNG.normal(size=(4, 12))
    np.testing.assert_allclose(
        on_grid(weight, [np.diag(RNG.uniform(1, 2, 12))]), nearest(weight), atol=1e-12
    )


@pytest.mark.parametrize("second", [np.zeros((6, 6)), np.full((6, 6), np.nan)])
def test_what_was_never_seen_is_rounded_to_nearest(second: np.ndarray) -> None:
    weight = RNG.normal(size=(3, 6))
    weight[1] = 0
    made = on_grid(weight, [second])
    assert (made[1] == 0).all()
    np.testing.assert_allclose(made[[0, 2]], nearest(weight[[0, 2]]), atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads"),
    [(3, 1, [1, 1, 1, 1]), (3, 2, [1, 1, 1, 1]), (1, 1, [0, 0, 0, 0]), (3, 2, [0, 0, 1, 1])],
)
def test_a_patch_times_the_weights_is_the_convolution(
    kernel: int, stride: int, pads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second moments of all places, weighted, are the mean square of the output, whatever the
    stride and padding.
    """
    weight = RNG.normal(size=(1, 2, kernel, kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "c", strides=[stride, stride], pads=pads)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    monkeypatch.setattr(rounding, "PLACES", 4000)
    moments = WeightMoments(model, 1)
    x = RNG.normal(size=(2, 2, 8, 8)).astype(np.float32)
    x[:, 1] += 2  # so that a wrong order of channels or padding shows
    y = moments(x=x)
    flat = weight.reshape(-1)
    assert flat @ moments.second["c"][0] @ flat / 8000 == pytest.approx(
        float(np.square(y).mean()), rel=0.05
    )


def test_blocks_share_out_the_inputs_and_take_no_more_than_they_may() -> None:
    widths = [9 * 4, 9 * 64, 9 * 320, 9 * 1280]
    assert block_size(widths) == 9 * 1280, "all of it, where there is room"
    for most in (64 << 20, 16 << 20, 1 << 20):
        block = block_size(widths, most)
        taken = 0
        for width in widths:
            parts = blocks(width, block)
            assert parts[0].start == 0 and parts[-1].stop == width
            assert all(a.stop == b.start for a, b in pairwise(parts))
            assert max(p.stop - p.start for p in parts) <= block
            taken += sum(4 * (p.stop - p.start) ** 2 for p in parts)
        assert taken <= most or block == SMALLEST_BLOCK
    assert block_size(widths, 1) == SMALLEST_BLOCK and block_size([]) == SMALLEST_BLOCK


def test_blocks_are_worth_less_than_all_and_more_than_nothing() -> None:
    """Inputs that hang together far apart are mended only where one block holds them."""
    x, weight = seen(64), RNG.normal(size=(8, 64))
    fresh = x[2000:]

    def error(block: int) -> float:
        parts = [x[:2000, part] for part in blocks(64, block)]
        made = on_grid(weight, [part.T @ part for part in parts])
        return float(np.square(fresh @ (made - weight).T).mean())

    whole, halves, singles = error(64), error(16), error(1)
    assert whole < halves < 0.5 * singles
    plain = float(np.square(fresh @ (nearest(weight) - weight).T).mean())
    assert singles == pytest.approx(plain), "alone, each is rounded to nearest"


def test_moments_of_blocks_are_those_of_the_whole() -> None:
    model = tiny.conv_net((3, 16), (16, 4))
    x = RNG.normal(size=(16, 3, 8, 8)).astype(np.float32)
    whole, parted = WeightMoments(model, 1), WeightMoments(model, 1, most_bytes=60_000)
    whole(x=x), parted(x=x)
    for name, (full,) in whole.second.items():
        parts = parted.second[name]
        for part, moments in zip(blocks(len(full), len(parts[0])), parts, strict=True):
            np.testing.assert_allclose(moments, full[part, part], rtol=1e-4, atol=1e-4)
    assert max(map(len, parted.second.values())) > 1, "some layer is in more than one"
    names = {t.name for t in rounded(model, parted).graph.initializer}
    assert {rounded_name(f"c{k}.weight", 8) for k in range(2)} <= names


def test_an_int8_convolution_takes_the_rounded_weights_and_a_float_one_its_own() -> None:
    model = tiny.conv_net((3, 4), (4, 4))
    moments = WeightMoments(model, 1)
    moments(x=RNG.normal(size=(16, 3, 8, 8)).astype(np.float32))
    even = rounded(model, moments)
    own = {t.name: numpy_helper.to_array(t) for t in even.graph.initializer}
    assert not np.array_equal(
        nearest(own["c1.weight"].reshape(4, -1)), own[rounded_name("c1.weight", 8)].reshape(4, -1)
    )
    plan = Plan(
        (("g/c0", "fp32"), ("*", "int8")), {"g": {t: Range(-4, 4) for t in qdq.candidates(model)}}
    )
    file = qdq.quantize(even, "g", plan, Dialect())
    found = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
    assert not any(is_rounded(name) for name in found) and np.array_equal(
        found["c0.weight"], own["c0.weight"]
    )
    ints, scales = (
        next(v for k, v in found.items() if k.startswith("c1.weight") and k.endswith(e))
        for e in (".int", ".scale")
    )
    np.testing.assert_allclose(
        ints * scales.reshape(-1, 1, 1, 1), own[rounded_name("c1.weight", 8)], rtol=1e-5, atol=1e-7
    )


def test_looking_changes_nothing() -> None:
    model = tiny.conv_net((3, 4), (4, 4))
    x = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)
    moments = WeightMoments(model, 1)
    plain = onnx.ModelProto.FromString(model.SerializeToString())
    from edgegen.calibrate.observe import session

    np.testing.assert_allclose(
        moments(x=x), session(plain, 1).run(None, {"x": x})[0], rtol=1e-5, atol=1e-6
    )
    assert all(
        m.shape == (3 * 9 if n == "c0" else 4 * 9,) * 2 for n, (m,) in moments.second.items()
    )
