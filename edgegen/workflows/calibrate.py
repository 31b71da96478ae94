"""Measure the activation statistics of a generator and choose a plan from them; both are written as
files that can be read and used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from ..errors import UsageError
from .context import Context, cores
from .limits import check_numbers
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from ..training.processes import World
    from .export.calibration import Calibration
    from .export.feeds import Feeds
    from .generators import LoadedGenerator

REPORT = "report.json"  # marks the folder as a calibration
PLAN = "plan.json"
SEEDS = 128  # seeds whose trajectories are calibrated on if no files are given


@dataclass(frozen=True)
class CalibrateSettings:
    """Say which inputs the generator's graphs receive while their tensors are measured."""

    # folder of GRAPH/*.npz with arrays named like the graph's inputs, rows first; None: the inputs
    # that the sampler gives the graphs on its own trajectories
    feeds: Path | None = None
    samples: int | None = None  # seeds of the trajectory; None: 128
    threads: int = 0  # CPU threads; 0 takes all cores
    overwrite: bool = False  # replace an earlier calibration

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class CalibrateResult:
    """Hold the report as it was written: coverage, and every quantized tensor with its range.

    `written` is False in the processes beside the first, which write nothing.
    """

    out: Path
    report: Mapping[str, Any]
    written: bool = True

    @property
    def plan(self) -> Path:
        """Return the path of the plan, which an export accepts."""
        return self.out / PLAN

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen calibrate --json` prints, without its outer frame."""
        return {"out": str(self.out), **self.report}


def calibrate_generator(
    generator: LoadedGenerator,
    out: str | Path,
    settings: CalibrateSettings | None = None,
    listen: Listener = silent,
) -> CalibrateResult:
    """Measure the values of every tensor, choose the range of each, and write plan.json and
    report.json into the folder `out`.

    Processes of torchrun or accelerate share the work. Raises InputError for feeds that do not fit
    the graphs, and UsageError for settings that exclude each other or an `out` that is taken.
    """
    from ..core.files import check_target, publish_alone, put, to_json
    from ..training.processes import joined
    from .export.calibration import calibrate_graphs
    from .export.fp32 import fp32_models

    settings, out = settings or CalibrateSettings(), Path(out)
    if settings.feeds is not None and settings.samples is not None:
        raise UsageError(
            "E-USAGE", "--samples cannot be used with --data: all rows of the files are used"
        )
    with joined("cpu") as world:
        listen = silent if world.rank else listen
        if world.rank == 0:
            check_target(out, REPORT, settings.overwrite)
        threads = settings.threads or max(1, cores() // world.size)
        with torch_threads(threads):
            feeds = _feeds(generator, settings, world, listen)
            context = Context(threads, listen=listen)
            models = fp32_models(generator, listen)
            calibration = calibrate_graphs(generator, models, feeds, context, world)
        report = _report(generator, feeds, calibration)
        if world.rank == 0:
            with publish_alone(out, REPORT, settings.overwrite) as folder:
                put(folder / PLAN, calibration.plan.to_bytes())
                put(folder / REPORT, to_json(report))
    return CalibrateResult(out, report, world.rank == 0)


def _feeds(
    generator: LoadedGenerator, settings: CalibrateSettings, world: World, listen: Listener
) -> Feeds:
    from .export.feeds import Files, Trajectories

    if settings.feeds is None:
        return Trajectories(generator.generator, settings.samples or SEEDS, world, listen)
    return Files(settings.feeds, generator.generator, world, listen)


def _report(generator: LoadedGenerator, feeds: Feeds, calibration: Calibration) -> dict[str, Any]:
    """Return the content of report.json: where the numbers come from, the coverage, and every
    quantized tensor with its range, its readers and the shape of its histogram.
    """
    from ..calibrate.ranges import Shape
    from .export.calibration import readers

    graphs = {}
    for name, histograms in calibration.histograms.items():
        reads = readers(calibration.models[name], name, calibration.plan)
        graphs[name] = {
            "samples_at_timestep": calibration.coverage[name],
            "tensors": {
                tensor: {
                    "seen": [histogram.seen.low, histogram.seen.high],
                    "read_by": reads.get(tensor, []),
                    **calibration.choices[name][tensor].to_json(),
                    **Shape.of(histogram).to_json(),
                }
                for tensor, histogram in histograms.items()
            },
        }
    return {
        "schema_version": 1,
        "source": generator.about,
        "family": generator.family,
        "samples": feeds.samples,
        **feeds.to_json(),
        "graphs": graphs,
    }
