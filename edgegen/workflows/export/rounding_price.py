"""Estimate how long weight rounding takes on this machine, from a sample of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...calibrate.choose import fastest
from ...calibrate.rounding import on_grid, rounded_sizes

if TYPE_CHECKING:
    from onnx import ModelProto

# outputs and inputs of the matrix that rounding is timed on
SAMPLE = (64, 384)
SAMPLES = 5  # the fastest counts: beside other work, one was seen to take fifty times as long
# cost of an operation that corrects the remaining weights, over one that inverts a matrix
OUTER = 10


def rounding_price(models: Mapping[str, ModelProto], most_bytes: int) -> float:
    """Return the seconds that rounding the weights of these graphs takes; the second moments of a
    weight take at most `most_bytes`.
    """
    plan = fastest(models)
    sizes = []
    for name, model in models.items():
        spoken = [n.name for n in model.graph.node if plan.speaks_of(name, n.name, n.op_type)]
        sizes += rounded_sizes(model, spoken, most_bytes)
    return rounding_seconds(sizes)


def rounding_seconds(sizes: Sequence[tuple[int, int]]) -> float:
    """Return the seconds that rounding weights of these (outputs, inputs) takes, scaled from a
    sample.
    """
    rng = np.random.default_rng(0)
    outputs, inputs = SAMPLE
    seen = rng.normal(size=(2 * inputs, inputs))
    weight = rng.normal(size=SAMPLE)
    second = seen.T @ seen
    took = min(_seconds(weight, second) for _ in range(SAMPLES))
    return took * sum(map(_work, sizes)) / _work((outputs, inputs))


def _seconds(weight: np.ndarray, second: np.ndarray) -> float:
    started = time.monotonic()
    on_grid(weight, [second])
    return time.monotonic() - started


def _work(size: tuple[int, int]) -> float:
    outputs, inputs = size
    return float(inputs**3 + OUTER * outputs * inputs**2)
