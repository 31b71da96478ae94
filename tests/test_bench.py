"""Timing is fair and complete, parity catches what is wrong; no test here asserts a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny

from edgegen.core.images import grid, png, to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.errors import EdgegenError, GateFailed
from edgegen.evidence import bench, parity
from edgegen.evidence.picture import GAIN, side_by_side

NAN = float("nan")
X = [{"x": np.arange(4, dtype=np.float32)}, {"x": np.arange(4, 8, dtype=np.float32)}]


def const(*values: float) -> Any:
    made = iter(values)
    return lambda x: x + next(made)


def test_what_is_recorded_is_the_whole_trajectory() -> None:
    recorded = bench.record(tiny.torch_images(), range(3))
    steps = tiny.generator().sampler.timesteps
    for graph, calls in recorded.items():
        assert [float(c["t"][0]) for c in calls] == list(steps), graph
        assert all(len(v) == 3 for c in calls for v in c.values())
    middle = bench.middle(recorded)
    assert float(middle["theta"][0]["t"][0]) == steps[len(steps) // 2]


def test_what_is_slower_is_told_beside_a_base_that_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0, 1.0]  # seconds; how slow the machine is just now

    def pipeline(cost: float) -> Pipeline:
        def call(**_: Any) -> Any:
            clock[0] += cost * clock[1] / 1e3
            clock[1] *= 1.001

        return Pipeline(tiny.generator().latent, tiny.generator().sampler, {"g": call})

    monkeypatch.setattr("time.process_time", lambda: clock[0])
    found = bench.slower(
        pipeline(10), {"more": pipeline(13), "less": pipeline(7)}, {"g": [{}]}, rounds=8
    )
    assert {name: len(values) for name, values in found.items()} == {"more": 8, "less": 8}
    assert np.median(found["more"]) == pytest.approx(3, rel=0.1) and np.median(
        found["less"]
    ) == pytest.approx(-3, rel=0.1)


def test_a_step_is_not_charged_for_the_network_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, last = [0.0], [""]

    def pipeline(name: str) -> Pipeline:
        def call(**_: Any) -> Any:
            clock[0] += 1e-3 if last[0] == name else 5e-3
            last[0] = name

        return Pipeline(tiny.generator().latent, tiny.generator().sampler, {"theta": call})

    monkeypatch.setattr("time.process_time", lambda: clock[0])
    inputs = {"theta": bench.middle(tiny.calls())["theta"]}
    times = bench.latencies({"a": pipeline("a"), "b": pipeline("b")}, inputs, threads=1, rounds=3)
    assert all(found.cpu_ms == pytest.approx(1) for found in times.values())


def test_a_latency_is_the_mean_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that steps in FP32 count for what they are."""
    clock = [0.0]

    def call(**inputs: Any) -> Any:
        clock[0] += 1e-3 * float(inputs["t"][0])

    monkeypatch.setattr("time.process_time", lambda: clock[0])
    recorded = {
        "often": [{"t": np.full(2, t)} for t in (4.0, 3.0, 2.0, 1.0)],
        "once": [{"t": np.full(2, 6.0)}],
    }
    pipeline = Pipeline(
        tiny.generator().latent, tiny.generator().sampler, dict.fromkeys(recorded, call)
    )
    assert bench.latencies({"a": pipeline}, recorded, 1, rounds=3)["a"].cpu_ms == pytest.approx(
        (4 + 3 + 2 + 1 + 6) / 4
    )


def test_candidates_are_timed_in_turn_and_alike() -> None:
    order: list[str] = []

    def pipeline(name: str) -> Pipeline:
        def call(**_: Any) -> Any:
            order.append(name)
            return np.zeros(1, np.float32)

        return Pipeline(
            tiny.generator().latent, tiny.generator().sampler, {"theta": call, "phi": call}
        )

    inputs = bench.middle(tiny.calls())
    times = bench.latencies(
        {"a": pipeline("a"), "b": pipeline("b")}, inputs, threads=1, rounds=5, warm_up=1
    )
    # a step that warms the caches, and one that is timed
    assert order == ["a", "a", "a", "a", "b", "b", "b", "b"] * 6
    order.clear()
    bench.latencies(
        {"a": pipeline("a"), "b": pipeline("b")}, tiny.calls(), threads=1, rounds=1, warm_up=0
    )
    steps = len(tiny.generator().sampler.timesteps)
    assert order == ["a"] * 2 * (1 + steps) + ["b"] * 2 * (1 + steps)  # a whole trajectory
    for found in times.values():
        assert (found.batch, found.threads, found.rounds) == (4, 1, 5)
        assert 0 <= found.cpu_ms <= found.cpu_p90_ms and 0 < found.wall_ms <= found.wall_p90_ms
        assert set(found.to_json()) == {
            "cpu_ms",
            "cpu_p90_ms",
            "wall_ms",
            "wall_p90_ms",
            "batch",
            "threads",
            "rounds",
        }


@pytest.mark.parametrize(
    "errors, worst",
    [
        ((0, 0), 0),
        ((0.5, 0.25), 0.5),
        ((0.25, 0.5), 0.5),
        ((NAN, 1), np.inf),
        ((1, NAN), np.inf),
    ],
)
def test_the_largest_difference_of_all_calls_and_nan_is_infinite(errors: Any, worst: float) -> None:
    assert parity.largest_difference(const(*errors), const(0, 0), X) == worst


@pytest.mark.parametrize("worst", [2e-4, NAN, float("inf")])
def test_full_precision_that_differs_is_named(worst: float) -> None:
    parity.check_fp32("openvino", {"theta": 1e-4})
    with pytest.raises(GateFailed, match="openvino computes graph phi differently from torch"):
        parity.check_fp32("openvino", {"theta": 0, "phi": worst})


def wrong(noise: float, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return lambda x: x + noise * rng.normal(size=x.shape).astype(np.float32)


@pytest.mark.parametrize(
    "runtime",
    [
        wrong(0.3),
        lambda x: x * 0,
        lambda x: -x,
        lambda x: x * 1.2,
        lambda x: x + NAN,
        lambda x: np.roll(x, 1),
    ],
)
@pytest.mark.parametrize("quantization", [0.0, 0.01, 0.1, 30.0, NAN])
def test_a_runtime_that_is_wrong_is_always_caught(runtime: Any, quantization: float) -> None:
    """However little, or however much, quantization itself costs."""
    calls = [{"x": np.random.default_rng(9).normal(size=4000).astype(np.float32)}]
    found = {"g": parity.referee(runtime, lambda x: x, wrong(quantization, 1), calls)}
    with pytest.raises(
        GateFailed, match=r"E-PARITY\] fake computes INT8 graph g wrongly: .* leave fake out"
    ):
        parity.check_referee("fake", found)


@pytest.mark.parametrize("runtime", [lambda x: x, wrong(1e-6), lambda x: x * np.float32(1.0000001)])
@pytest.mark.parametrize("quantization", [0.0, 0.01, 0.1])
def test_a_runtime_that_rounds_is_not(runtime: Any, quantization: float) -> None:
    calls = [{"x": np.random.default_rng(9).normal(size=4000).astype(np.float32)}]
    parity.check_referee(
        "fake", {"g": parity.referee(runtime, lambda x: x, wrong(quantization, 1), calls)}
    )


def test_a_silent_graph_must_stay_silent() -> None:
    silent = [{"x": np.zeros(4, np.float32)}]
    assert parity.referee(lambda x: x, lambda x: x, lambda x: x, silent).agrees
    assert not parity.referee(lambda x: x + 1, lambda x: x, lambda x: x, silent).agrees


def test_pixels_are_counted_within_one_level() -> None:
    a = np.full((1, 10, 10, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0, 0], b[0, 1, 1, 1] = 101, 200
    assert parity.same_pixels(a, b) == parity.same_pixels(b, a) == 299 / 300
    parity.check_pixels("a", "b", 0.999)
    for share in (0.99, NAN):
        with pytest.raises(GateFailed, match="a and b give different FP32 images"):
            parity.check_pixels("a", "b", share)


def test_the_picture_shows_three_blocks_a_runtime_and_the_difference_enlarged() -> None:
    full = np.full((4, 6, 6, 3), 100, np.uint8)
    same, other = (
        side_by_side(full, {"a": full}),
        side_by_side(full, {"a": full + np.uint8(3), "b": full}),
    )
    assert other.shape == (2 * same.shape[0], same.shape[1], 3) and other.dtype == np.uint8
    block = same[16:, : 4 * 6 * 2]
    assert (block[:12] == 100).all()
    assert (other[16:28, -1] == 255).all() or (other[16:28, -1] == 3 * GAIN).all()
    assert (other == 3 * GAIN).any() and not (same == 3 * GAIN).all()


def test_images_become_levels_and_nan_is_refused() -> None:
    images = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32).reshape(1, 1, 1, 5)
    assert to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255] and to_uint8(
        images
    ).shape == (1, 1, 5, 3)
    with pytest.raises(EdgegenError, match=r"E-NONFINITE\] generated images hold NaN"):
        to_uint8(images * NAN)


def test_a_grid_holds_every_image_and_its_png_no_text() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 4, 3), np.uint8)
    made = grid(images, gap=1)
    assert (
        made.shape == (9, 14, 3)
        and made[0, 5].tolist() == [1, 1, 1]
        and made[5, 5].tolist() == [4, 4, 4]
    )
    data = png(made, scale=2)
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and b"tEXt" not in data and b"eXIf" not in data
