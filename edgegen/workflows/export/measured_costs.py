"""Measure briefly what the work of an export costs on this machine: a call of each graph, a few
images, a calibrated batch, and a plan built as files.

If an image takes long, only the calls are measured, and the rest is scaled from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...calibrate.choose import kinds, multiplications
from ...calibrate.rounding import MOST_BYTES, WeightMoments
from ...core.plan import Plan
from ...core.spec import Array
from ...machine.resident import peak_bytes
from .fp32 import fp32_models, parity_seeds
from .measurements import FullPrecision, SearchSubject
from .prices import CALIBRATING, LONG, Prices, measured_prices
from .rehearsal import asked_along_a_trajectory, quantizable, rehearsed, seconds
from .rounding_price import rounding_price
from .search_settings import SearchSettings

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...core.runtime import Runtime
    from ..context import Context
    from ..generators import LoadedGenerator

Models = Mapping[str, "ModelProto"]
IN_INT8 = 0.6  # time of an INT8 call over one in full precision, if it is not measured
ALONE = 0.05  # seconds for an image's features, if they are not measured


@dataclass(frozen=True)
class GraphCosts:
    """Hold the costs of one graph.

    `layers` may be in INT8, of `kinds` kinds; `calls` and `multiplications` are those of one image.
    `full_s` and `int8_s` are the seconds of a call for one image on one thread.
    """

    layers: int
    kinds: int
    calls: int
    multiplications: int
    full_s: float
    int8_s: float


@dataclass(frozen=True)
class ExportCosts:
    """Hold the seconds of an export with the threads that were asked for, and the peak resident
    memory in bytes that the measurement had reached at each stage.
    """

    graphs: Mapping[str, GraphCosts]
    prices: Prices
    graphs_s: float
    loaded_bytes: int
    graphs_bytes: int
    calibration_bytes: int
    images_bytes: int
    is_scaled: bool  # the costs follow from one call of each graph, because an image takes long

    @property
    def int8_image_s(self) -> float:
        """Return the seconds of an image in INT8; `prices.image` has those in full precision."""
        full, int8 = (
            sum(g.calls * seconds for g, seconds in self._calls(which)) for which in (0, 1)
        )
        return self.prices.image * int8 / full if full else self.prices.image

    def _calls(self, which: int) -> list[tuple[GraphCosts, float]]:
        return [(g, (g.full_s, g.int8_s)[which]) for g in self.graphs.values()]


def measured_costs(
    source: LoadedGenerator,
    targets: Sequence[Runtime],
    settings: SearchSettings,
    context: Context,
) -> ExportCosts:
    """Measure the costs of an export of this generator; its first runtime stands for the others."""
    loaded, began = peak_bytes(), time.monotonic()
    models = fp32_models(source, context.listen)
    traced = time.monotonic() - began
    full = FullPrecision(SearchSubject(source, models, {}, Plan((), {})), settings, context)
    with context.listen.progress("measuring what an image costs"):
        calls = asked_along_a_trajectory(source)
        full_s = {name: _call_seconds(full.pipeline.call[name], c) for name, c in calls.items()}
        graphs_bytes = peak_bytes()
        image = sum(len(calls[name]) * full_s[name] for name in models) / context.threads
        trace = _Measured(source, models, calls, full_s, loaded, graphs_bytes)
        seeds = parity_seeds(source, models)
        graphs_s = traced + 3 * seeds * image * context.threads
        if image > LONG:
            return _scaled(trace, image, graphs_s)
        return _rehearsed(trace, full, targets[0], graphs_s)


@dataclass(frozen=True)
class _Measured:
    """Hold what is known after the first calls."""

    source: LoadedGenerator
    models: Models
    calls: Mapping[str, Sequence[Mapping[str, Array]]]
    full_s: Mapping[str, float]
    loaded_bytes: int
    graphs_bytes: int

    def graphs(self, int8_s: Mapping[str, float]) -> dict[str, GraphCosts]:
        found = {}
        for name, model in self.models.items():
            counts, kind_of = multiplications(model), kinds(model)
            layers = quantizable(self.models, name)
            found[name] = GraphCosts(
                len(layers),
                len({kind_of[node] for node in layers}),
                len(self.calls[name]),
                sum(counts[node] for node in layers),
                self.full_s[name],
                int8_s[name],
            )
        return found


def _call_seconds(session: Callable[..., Array], calls: Sequence[Mapping[str, Array]]) -> float:
    """Return the seconds of the middle call; if it takes less than a second, of the
    faster of two.
    """
    inputs = calls[len(calls) // 2]
    first = seconds(lambda: session(**inputs))
    return first if first > LONG else min(first, seconds(lambda: session(**inputs)))


def _scaled(found: _Measured, image: float, graphs_s: float) -> ExportCosts:
    """Scale the costs from one call of each graph."""
    moments = {
        name: WeightMoments(model, 1, quantizable(found.models, name))
        for name, model in found.models.items()
    }
    peak = peak_bytes()
    del moments  # they were made only to see the most memory that they take
    rounding = rounding_price(found.models, MOST_BYTES)
    call_bytes = found.graphs_bytes - found.loaded_bytes
    return ExportCosts(
        found.graphs({name: IN_INT8 * s for name, s in found.full_s.items()}),
        Prices(image, ALONE, graphs_s / 4, CALIBRATING * image, rounding),
        graphs_s,
        found.loaded_bytes,
        found.graphs_bytes,
        peak + call_bytes,
        peak + call_bytes,
        True,
    )


def _rehearsed(
    found: _Measured, full: FullPrecision, target: Runtime, graphs_s: float
) -> ExportCosts:
    """Measure the costs in a rehearsal."""
    done = rehearsed(found.source, found.models, found.calls, full.context.threads)
    calibration_bytes = peak_bytes()
    prices = measured_prices(full, target, done)
    int8 = done.as_files(found.source, target)
    int8_s = {name: _call_seconds(int8.call[name], found.calls[name]) for name in found.calls}
    return ExportCosts(
        found.graphs(int8_s),
        prices,
        graphs_s,
        found.loaded_bytes,
        found.graphs_bytes,
        calibration_bytes,
        peak_bytes(),
        False,
    )
