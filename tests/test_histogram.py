"""Histograms stream: state never grows with samples, batches add up. Ranges: what each method
covers, and what it costs.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny

from edgegen.calibrate.histogram import BINS, Histogram, HistogramCounter, Histograms
from edgegen.calibrate.ranges import METHODS, Shape, chosen, expected_error, least_error, percentile
from edgegen.core.plan import Range
from edgegen.core.spec import Array

SEEN = {"a": Range(-4, 4), "b": Range(0, 8), "still": Range(0, 0)}


def batches(count: int, rows: int = 8) -> list[list[Array]]:
    rng = np.random.default_rng(0)
    made = [rng.normal(0, 1, (rows, 3, 5, 5)).clip(-4, 4).astype(np.float32) for _ in range(count)]
    return [[x, np.maximum(x, 0) * 2, np.zeros_like(x)] for x in made]


def counted(parts: list[list[Array]], seen: dict[str, Range] = SEEN) -> Histograms:
    found = Histograms(seen)
    for part in parts:
        found.add(part)
    return found


def size(found: Histograms) -> int:
    return sum(
        sys.getsizeof(v) + (v.nbytes if isinstance(v, np.ndarray) else 0)
        for v in vars(found).values()
    )


def histogram(values: np.ndarray) -> Histogram:
    x = values.astype(np.float32)
    found = Histograms({"x": Range(min(0.0, float(x.min())), max(0.0, float(x.max())))})
    found.add([x])
    return found.of("x")


def test_state_grows_with_tensors_and_never_with_samples() -> None:
    few, many = counted(batches(2)), counted(batches(60))
    assert size(few) == size(many) and vars(few).keys() == vars(many).keys()
    assert size(counted([], {f"{k}": Range(0, 1) for k in range(9)})) > size(few)


def test_histograms_of_batches_are_those_of_the_whole() -> None:
    parts = batches(6)
    whole = counted([[np.concatenate(tensor) for tensor in zip(*parts, strict=True)]])
    split, ranks = counted(parts), [counted(parts[k::2]) for k in (0, 1)]
    for found in (split.counts, ranks[0].counts + ranks[1].counts):
        np.testing.assert_array_equal(found, whole.counts)
    np.testing.assert_array_equal(split.zeros, whole.zeros)
    values = np.concatenate([part[0].ravel() for part in parts])
    np.testing.assert_array_equal(
        whole.counts[0], np.histogram(values[values != 0], BINS, (-4, 4))[0]
    )
    assert (whole.counts.sum(1) + whole.zeros == values.size).all()


def test_what_is_zero_or_a_hair_outside_is_counted() -> None:
    found = counted(
        [
            [
                np.array([x], np.float32)
                for x in (np.nextafter(np.float32(4), np.float32(5)), 0.0, 0.0)
            ]
        ]
    )
    assert found.counts[0, -1] == 1 and found.zeros.tolist() == [0, 1, 1]


def test_a_graph_is_counted_as_it_runs() -> None:
    model = tiny.conv_net((3, 4), (4, 4))
    counter = HistogramCounter(model, {"x": Range(-4, 4), "r0": Range(0, 8)}, 1)
    x = np.random.default_rng(0).normal(0, 1, (4, 3, 8, 8)).clip(-4, 4).astype(np.float32)
    assert counter(x=x).shape == (4, 4, 8, 8)
    found = counter.histograms
    assert found.of("x").counts.sum() == x.size and found.of("r0").zeros > 0
    assert found.of("r0").counts.sum() + found.of("r0").zeros == 4 * 4 * 64


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(0, 1, 20_000),
        np.abs(np.random.default_rng(1).standard_t(3, 20_000)),
        -np.random.default_rng(2).random(500) - 3,
        np.zeros(50),
        np.full(50, 3.0),
    ],
    ids=["normal", "one-sided", "never zero", "zero", "constant"],
)
def test_a_range_holds_zero_and_no_more_than_was_seen(method: str, values: np.ndarray) -> None:
    found = histogram(values)
    covered = METHODS[method](found)
    assert found.seen.low <= covered.low <= 0 <= covered.high <= found.seen.high
    if values.any():
        assert covered.low < covered.high


def test_the_expected_error_is_the_error_of_rounding_and_cutting() -> None:
    values = np.random.default_rng(0).standard_t(4, 50_000).astype(np.float32)
    found = histogram(values)
    for covered in (found.seen, Range(-8, 8), Range(-5, 3)):
        step = (covered.high - covered.low) / 255
        zero = np.rint(-covered.low / step)
        rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
        for power in (1, 1.5, 2):
            by_hand = (np.abs(values - rounded) ** power).mean()
            assert expected_error(found, covered, power) == pytest.approx(by_hand, rel=0.05)


def test_a_percentile_cuts_its_share_at_most() -> None:
    values = np.random.default_rng(0).normal(0, 1, 100_000)
    found = histogram(values)
    for share in (0.9999, 0.999, 0.9):
        covered = percentile(found, share)
        outside = ((values < covered.low) | (values > covered.high)).mean()
        assert 0 < outside <= 1 - share + 1e-9
    assert percentile(found, 0.999).high < percentile(found, 0.9999).high


def test_the_least_error_is_the_least_of_all_methods_and_of_ranges_nearby() -> None:
    values = np.random.default_rng(0).standard_t(5, 200_000)
    found, choice = histogram(values), chosen(histogram(values))
    assert (
        choice.errors[choice.method] == min(choice.errors.values()) < choice.errors["min-max"] == 1
    )
    least = least_error(found)
    for low, high in ((0.9, 1), (1.1, 1), (1, 0.9), (1, 1.1)):
        near = Range(max(found.seen.low, least.low * low), min(found.seen.high, least.high * high))
        assert expected_error(found, near) >= expected_error(found, least)


def test_one_value_alone_is_cut_many_are_kept_and_a_uniform_tensor_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, 200_000)
    assert chosen(histogram(np.append(normal, 60.0))).range.high < 15
    assert chosen(histogram(np.append(normal, np.full(500, 20.0)))).range.high > 15
    even = chosen(histogram(rng.uniform(-1, 1, 200_000)))
    assert even.range.low < -0.99 and even.range.high > 0.99


def test_what_is_odd_is_said() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 1, 50_000)
    assert Shape.of(histogram(normal)) == Shape(False, False, 0.0)
    assert Shape.of(histogram(np.abs(normal))).one_sided
    usual = np.quantile(np.abs(normal), 0.9999)
    assert Shape.of(histogram(np.append(normal, 40.0))).outlier == pytest.approx(
        40 / usual, rel=0.05
    )
    for still in (0.0, 3.0):
        assert Shape.of(histogram(np.full(50, still))).constant
