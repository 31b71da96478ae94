"""edgegen inspect: describe a source, and what edgegen makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.counting import counted
from ..errors import UsageError
from . import output
from .brought_options import (
    DropSafetyChecker,
    Guidance,
    Inputs,
    Lora,
    Output,
    OutputRange,
    Prompts,
    Sampler,
    Scheduler,
    Variant,
    with_onnx,
)
from .options import Source, Threads, names_of, ruined_of

if TYPE_CHECKING:
    from ..workflows.export.prediction import ExportPrediction
    from ..workflows.inspect import InspectResult

Predict = Annotated[
    bool,
    typer.Option(
        "--predict",
        help="Measure for about a minute how long an image takes here, and predict the time and "
        "memory of each step of `export --int8`.",
    ),
]
PredictedTime = Annotated[
    str | None, typer.Option(help="With --predict: the value of --time for the export.")
]
PredictedRuntime = Annotated[
    str | None,
    typer.Option(
        help="With --predict: the runtimes of the export, separated by commas.  [default: "
        "onnxruntime]",
        show_default=False,
    ),
]
PredictedSteps = Annotated[
    int | None,
    typer.Option(help="With --predict: the number of sampler steps of the export.", min=1),
]
PredictedRuined = Annotated[
    str | None,
    typer.Option(
        "--max-ruined",
        help="With --predict: the value of --max-ruined for the export.",
    ),
]


def inspect(
    source: Source,
    lora: Lora = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    variant: Variant = None,
    drop_safety_checker: DropSafetyChecker = False,
    inputs: Inputs = None,
    sampler: Sampler = None,
    output_range: OutputRange = None,
    output_name: Output = None,
    predict: Predict = False,
    prompts: Prompts = None,
    runtime: PredictedRuntime = None,
    steps: PredictedSteps = None,
    time: PredictedTime = None,
    max_ruined: PredictedRuined = None,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Describe a generator: what it is, what an export of it needs, and which parts of it edgegen
    cannot use.
    """
    from ..workflows.export.run import ExportSettings
    from ..workflows.inspect import inspect_source
    from ..workflows.predict import predict_export
    from ..workflows.source_choices import SourceChoices

    given = {
        "--prompts": prompts,
        "--runtime": runtime,
        "--steps": steps,
        "--time": time,
        "--max-ruined": max_ruined,
    }
    said = next((flag for flag, value in given.items() if value is not None), None)
    if said and not predict:
        raise UsageError(
            "E-USAGE", f"{said} has no meaning without --predict", hint="add --predict"
        )
    choices = SourceChoices(
        prompts,
        loras=tuple(lora or ()),
        guidance=guidance,
        scheduler=scheduler,
        variant=variant,
        drop_safety_checker=drop_safety_checker,
    )
    choices = with_onnx(choices, inputs, sampler, output_range, output_name)
    found = inspect_source(source, choices, output.terminal)
    predicted = None
    if predict:
        settings = ExportSettings(
            runtimes=names_of(runtime or "onnxruntime"),
            steps=steps,
            time=time,
            threads=threads,
            source=choices,
        )
        if max_ruined is not None:
            settings = replace(settings, max_ruined=ruined_of(max_ruined))
        predicted = predict_export(source, settings, output.terminal)
    document = {**found.to_json(), "predicted": predicted.to_json() if predicted else None}
    output.result("inspect", document)
    _show(found)
    if predicted is None:
        print(
            "Add --predict to measure how much time and memory each step of an export would take "
            "on this machine."
        )
    else:
        _show_predicted(predicted)


def _show(found: InspectResult) -> None:
    channels, height, width = found.image
    takes = f"{found.classes} classes" if found.classes else "nothing but a seed"
    if found.prompt_tokens is not None:
        takes = f"prompts of at most {found.prompt_tokens} tokens: --prompts FILE"
    steps = counted(found.steps, "step")
    rows = [
        ["what", found.kind],
        ["parameters", ", ".join(f"{n} {count:,}" for n, count in found.parameters.items())],
        ["memory of an export", f"{found.peak_bytes / 1e9:.1f} GB at least"],
        ["images", f"{width} x {height} pixels, {channels} channels"],
        ["sampler", f"{found.solver}, {steps}, guidance {found.guidance:g}"],
        ["takes", takes],
        ["licence", found.licence or "none is named"],
    ]
    if found.bytes_stored is not None:
        rows.insert(2, ["weights on disk", f"{found.bytes_stored / 1e6:,.1f} MB"])
    if found.left_out:
        rows.append(["left out", ", ".join(found.left_out)])
    output.table(["", found.source], rows)


def _show_predicted(predicted: ExportPrediction) -> None:
    from ..workflows.byte_sizes import bytes_in_words
    from ..workflows.durations import in_words

    rows = [
        [name, in_words(step.seconds), bytes_in_words(step.peak_bytes)]
        for name, step in predicted.steps.items()
    ]
    total = [in_words(predicted.seconds), bytes_in_words(predicted.peak_bytes)]
    print()
    output.table(["predicted step", "time", "memory at most"], [*rows, ["all", *total]])
    threads = counted(predicted.threads, "thread")
    how = "one call of each graph" if predicted.is_scaled else "a few images and calls"
    print(
        f"This prediction is for {', '.join(predicted.runtimes)} on {threads} and was computed "
        f"from {how}: an image takes {predicted.image_seconds:.3g} s. The export may need "
        f"{bytes_in_words(predicted.disk_bytes)} of disk space. It takes longer if the search "
        "finds its plan late or the verdict meets ruined pairs."
    )
