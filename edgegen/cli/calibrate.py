"""edgegen calibrate: activation statistics and the plan made of them, as files that can be read and
used again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..workflows import generators
from . import output
from .options import Out, Overwrite, Threads, cores, need_torch

if TYPE_CHECKING:
    from ..core.graph import Generator
    from ..training.processes import World
    from ..workflows.export.calibration import Calibration
    from ..workflows.export.feeds import Feeds

MARK = "report.json"
PLAN = "plan.json"
SHOWN = 12  # outliers in the table; report.json has all
SEEDS = 128  # whose trajectories are calibrated on where no files are given


def calibrate(
    what: Annotated[str, typer.Argument(help="Zoo name or run folder.", metavar="SOURCE")],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FEEDS",
            help="FEEDS/GRAPH/*.npz: arrays named like its inputs, rows first. Else the sampler's "
            "trajectory.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Seeds that are calibrated on; 128, if not said.", min=32)
    ] = None,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Measure what every tensor holds, choose the range of each, and write plan.json and
    report.json.
    """
    if data is not None and samples is not None:
        raise UsageError(
            "E-USAGE", "--samples is of the sampler's own trajectory: with --data all rows are used"
        )
    need_torch()
    import torch

    from ..core.files import check_target, publish, to_json
    from ..training.processes import joined
    from ..workflows.context import Context
    from ..workflows.export.calibration import calibrate_graphs
    from ..workflows.export.fp32 import fp32_models

    with joined("cpu") as world:
        if world.rank == 0:
            check_target(out, MARK, overwrite)
        count = threads or max(1, cores() // world.size)
        torch.set_num_threads(count)
        made = generators.load_generator(what)
        feeds = _feeds(made.generator, data, samples or SEEDS, world)
        context = Context(count)
        found = calibrate_graphs(made, fp32_models(made), feeds, context, world)
        if world.rank:
            return
        report = _report(made, feeds, found)
        with publish(out, MARK, overwrite) as folder:
            (folder / PLAN).write_bytes(found.plan.to_bytes())
            (folder / MARK).write_bytes(to_json(report))
        show(report)
        output.result("calibrate", {"out": str(out), **report})
    print(f"calibrated: {out}  plan: {out / PLAN}")


def _feeds(generator: Generator, data: Path | None, samples: int, world: World) -> Feeds:
    from ..core.progress import silent
    from ..workflows.export.feeds import Files, Trajectories

    listen = silent if world.rank else output.terminal
    return (
        Trajectories(generator, samples, world, listen)
        if data is None
        else Files(data, generator, world, listen)
    )


def _report(made: generators.LoadedGenerator, feeds: Feeds, found: Calibration) -> dict[str, Any]:
    """report.json: where the numbers come from, coverage, every tensor that is quantized, and what
    is odd about it.
    """
    from ..calibrate.ranges import Shape
    from ..workflows.export.calibration import readers

    graphs = {}
    for name, histograms in found.histograms.items():
        reads = readers(found.models[name])
        graphs[name] = {
            "samples_at_timestep": found.coverage[name],
            "tensors": {
                tensor: {
                    "seen": [one.seen.low, one.seen.high],
                    "read_by": reads.get(tensor, []),
                    **found.choices[name][tensor].to_json(),
                    **Shape.of(one).to_json(),
                }
                for tensor, one in histograms.items()
            },
        }
    return {
        "schema_version": 1,
        "source": made.about,
        "family": made.family,
        "samples": feeds.samples,
        **feeds.to_json(),
        "graphs": graphs,
    }


def show(report: dict[str, Any]) -> None:
    """Coverage of each graph, then the tensors that INT8 will find hard."""
    rows, odd = [], []
    for name, graph in report["graphs"].items():
        tensors, seen = graph["tensors"], graph["samples_at_timestep"].values()
        methods = sorted(one["method"] for one in tensors.values())
        rows.append(
            [
                name,
                len(seen),
                " to ".join(map(str, dict.fromkeys((min(seen), max(seen))))),
                len(tensors),
                sum(one["constant"] for one in tensors.values()),
                sum(one["one_sided"] for one in tensors.values()),
                ", ".join(f"{method} {methods.count(method)}" for method in dict.fromkeys(methods)),
            ]
        )
        odd += [
            (one["outlier"], f"{name}/{tensor}", one)
            for tensor, one in tensors.items()
            if one["outlier"] or one["constant"]
        ]
    output.table(
        ["graph", "timesteps", "samples at each", "tensors", "constant", "one-sided", "ranges"],
        rows,
    )
    for _, name, one in odd:
        if one["constant"]:
            print(f"{name} holds one value alone.")
    far = sorted((row for row in odd if row[0]), key=lambda row: (-row[0], row[1]))
    if far:
        print(
            f"Outliers, {min(SHOWN, len(far))} of {len(far)}: largest value over the 99.99 "
            "percentile of magnitudes."
        )
        output.table(
            ["tensor", "largest", "factor", "range", "read by"],
            [
                [
                    name,
                    f"{max(-one['seen'][0], one['seen'][1]):.3g}",
                    f"{factor:.1f}",
                    "{:.3g} to {:.3g}".format(*one["range"]),
                    ", ".join(one["read_by"]) or "no convolution",
                ]
                for factor, name, one in far[:SHOWN]
            ],
        )
