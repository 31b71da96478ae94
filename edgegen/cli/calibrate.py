"""edgegen calibrate: write activation statistics and the plan made from them, as files that can be
read and used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import output
from .brought_options import (
    DropSafetyChecker,
    Inputs,
    Lora,
    Output,
    OutputRange,
    Prompts,
    Sampler,
    source_choices,
    with_onnx,
)
from .options import Out, Overwrite, Source, Threads

SHOWN = 12  # outliers in the table; report.json has all


def calibrate(
    source: Source,
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FEEDS",
            help="Calibrate on the files FEEDS/GRAPH/*.npz. Their arrays are named like the "
            "graph's inputs, and the first axis counts the samples (default: the sampler's own "
            "trajectories).",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of seeds to calibrate on (default 128).", min=8)
    ] = None,
    prompts: Prompts = None,
    lora: Lora = None,
    drop_safety_checker: DropSafetyChecker = False,
    inputs: Inputs = None,
    sampler: Sampler = None,
    output_range: OutputRange = None,
    output_name: Output = None,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Measure the values of every tensor, choose a quantization range for each, and write plan.json
    and report.json.
    """
    from ..workflows.calibrate import CalibrateSettings, calibrate_generator
    from ..workflows.generators import load_generator

    settings = CalibrateSettings(data, samples, threads, overwrite)
    choices = source_choices(prompts, lora, drop_safety_checker)
    choices = with_onnx(choices, inputs, sampler, output_range, output_name)
    generator = load_generator(source, output.terminal, choices)
    result = calibrate_generator(generator, out, settings, output.terminal)
    if not result.written:
        return
    show(result.report)
    output.result("calibrate", result.to_json())
    print(f"calibrated: {out}  plan: {result.plan}")


def show(report: Mapping[str, Any]) -> None:
    """Print the coverage of each graph, then the tensors that are hard to represent in INT8."""
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
            print(f"{name} is constant: all its values are equal.")
    far = sorted((row for row in odd if row[0]), key=lambda row: (-row[0], row[1]))
    if far:
        print(
            f"Outliers, {min(SHOWN, len(far))} of {len(far)}. Factor: the largest magnitude "
            "divided by the 99.99th percentile of the magnitudes."
        )
        output.table(
            ["tensor", "largest", "factor", "range", "read by"],
            [
                [
                    name,
                    f"{max(-one['seen'][0], one['seen'][1]):.3g}",
                    f"{factor:.1f}",
                    "{:.3g} to {:.3g}".format(*one["range"]),
                    ", ".join(one["read_by"]) or "no layer",
                ]
                for factor, name, one in far[:SHOWN]
            ],
        )
