"""Measure what an export's work costs on this machine: an image, its features, a plan, and a seed
of the calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...core.answer_cache import Notes, folder
from ...core.cpu import cpu_flags
from ...core.files import JsonObject, to_json
from ...core.samplers import sampler_to_json
from ...version import __version__
from .calibration import digest
from .measurements import FullPrecision
from .rehearsal import Rehearsed, asked_along_a_trajectory, rehearsed, seconds
from .rounding_price import rounding_price

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...core.runtime import Runtime

# least and most images that a price is measured on, unless the first one takes PRICED_SECONDS
PRICED = (8, 64)
PRICED_SECONDS = 2.0
LONG = 1.0  # seconds of an image beyond which nothing is rehearsed
CALIBRATING = 6.0  # cost of a seed in all four runs of a calibration, in images


@dataclass(frozen=True)
class Prices:
    """Hold seconds on this machine with the threads that were asked for.

    `image` is from noise or prompt to pixels in full precision, `features` are an image's, `plan`
    turns a plan into files and sessions, `seed` calibrates on one seed, and `start` is a
    calibration's cost without seeds.
    """

    image: float
    features: float
    plan: float
    seed: float
    start: float

    def verdict(self, pairs: int, pixels: int) -> float:
        """Return the seconds of a verdict that compares the features of `pairs` and the pixels of
        `pixels` pairs.
        """
        return pixels * 2 * self.image + pairs * 2 * self.features

    def pixels(self, pairs: int, seconds: float) -> int:
        """Return the most pairs whose pixels fit into `seconds` beside the features of `pairs`."""
        return int((seconds - pairs * 2 * self.features) / (2 * self.image))


def measured_prices(
    full: FullPrecision, target: Runtime, rehearsal: Rehearsed | None = None
) -> Prices:
    """Return the prices, noted in the cache so that an export that is started again makes the same
    plan of its time.

    `target` builds the plan that is timed; `rehearsal` is one of these models, if there was one.
    """
    models = full.subject.fp32
    asked = {
        "edgegen": __version__,
        "machine": cpu_flags(),
        "threads": full.context.threads,
        "models": digest(models),
        "runtime": target.name,
        "sampler": sampler_to_json(full.subject.source.generator.sampler),
        "features": str(full.context.feature_weights),
    }
    key = hashlib.sha256(to_json(asked)).hexdigest()[:32]
    notes = Notes(folder("prices") / f"{key}.jsonl")
    question = "an image, its features, a plan, a seed, a start"
    return Prices(**notes.recall(question, lambda: _measured(full, models, target, rehearsal)))


def _measured(
    full: FullPrecision,
    models: Mapping[str, ModelProto],
    target: Runtime,
    rehearsal: Rehearsed | None,
) -> JsonObject:
    source, threads = full.subject.source, full.context.threads
    loading = seconds(full.loaded)
    side, some = full.side, 1
    image = seconds(lambda: side.pixels(0, 1))
    if image < PRICED_SECONDS:
        some = int(max(PRICED[0], min(PRICED_SECONDS / max(image, 1e-6), PRICED[1])))
        side = side.from_seed(side.start + 1)
        image = seconds(lambda: side.pixels(0, some)) / some
    features = seconds(lambda: side.projected(some)) / some
    if image > LONG:
        rounding = rounding_price(models, full.context.memory.moments_bytes)
        return asdict(Prices(image, features, loading, CALIBRATING * image, loading + rounding))
    done = rehearsal or rehearsed(source, models, asked_along_a_trajectory(source), threads)
    plan = seconds(lambda: done.as_files(source, target))
    return asdict(Prices(image, features, plan, done.seed_s, done.start_s))
