"""Predict the time, memory and disk space of an export on this machine before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.progress import Listener, silent
from .context import Context
from .durations import seconds_of
from .generators import loaded
from .sampling_choices import SamplingChoices, chosen
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from ..evidence.terms import Terms
    from .export.prediction import ExportPrediction
    from .export.run import ExportSettings
    from .generators import LoadedGenerator


def predict_export(
    generator: LoadedGenerator | str | Path,
    settings: ExportSettings | None = None,
    listen: Listener = silent,
) -> ExportPrediction:
    """Predict the seconds and the resident memory of each step of `export_bundle` with these
    settings, from a short measurement; nothing is exported.

    Raises the errors with which an export would refuse these settings at once.
    """
    from .export.disk_space import disk_need
    from .export.measured_costs import measured_costs
    from .export.prediction import ExportPrediction, ExportWork, predicted_steps
    from .export.run import ExportSettings, export_targets
    from .export.search_settings import SearchSettings

    settings = settings or ExportSettings()
    context = Context.of(settings.threads, settings.feature_weights, listen)
    targets = export_targets(settings.runtimes)
    with torch_threads(context.threads):
        source = loaded(generator, listen, settings.source)
        choices = SamplingChoices(settings.steps, solver=settings.solver)
        source = replace(source, generator=chosen(source, choices)[0])
        terms = _terms(source, settings)
        search = SearchSettings(terms)
        if settings.last_steps is not None:
            search = replace(search, last_steps=settings.last_steps)
        costs = measured_costs(source, targets, search, context)
    seconds = None if settings.time is None else seconds_of(settings.time)
    channels, height, width = source.generator.image_shape
    work = ExportWork(
        search,
        _first_look(source, terms),
        len(targets),
        context.threads,
        settings.calibration_samples,
        channels * height * width,
        seconds,
    )
    need = disk_need(source, targets, context.threads)
    return ExportPrediction(
        predicted_steps(costs, work),
        costs.prices.image,
        need.out + need.temporary,
        context.threads,
        tuple(target.name for target in targets),
        seconds,
        costs.is_scaled,
    )


def _terms(source: LoadedGenerator, settings: ExportSettings) -> Terms:
    """Return the terms, without a distance if there is no reference: an export would ask for one,
    but it can be predicted without.
    """
    terms = settings.terms
    if source.reference.is_file():
        return terms
    return replace(terms, is_distance_counted=False)


def _first_look(source: LoadedGenerator, terms: Terms) -> int:
    from ..evidence.judge import counted_reference
    from ..evidence.looks import first_look
    from .export.judges import reference_for

    stored = reference_for(source.reference, terms)
    return min(terms.maximum, first_look(counted_reference(stored, terms)))
