"""edgegen explain: show which part of a layer's features draws which region of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..workflows import generators
from ..workflows.source_choices import refuse_onnx
from . import output
from .brought_options import DropSafetyChecker, Lora, Prompts, source_choices
from .moved import moved
from .options import LayeredSource, Overwrite, Regions, Threads

if TYPE_CHECKING:
    from ..workflows.explain import ExplainResult


@moved(
    {
        "--against": "edgegen damage SOURCE BUNDLE -o FOLDER",
        "--layers": "edgegen layers SOURCE",
    }
)
def explain(
    source: LayeredSource,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="Folder to write the report to; with --edit, a .png file is possible too.",
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the image.", min=0)] = 0,
    label: Annotated[
        int | None, typer.Option(help="Class of the image (default: chosen by the seed).")
    ] = None,
    layer: Annotated[
        str,
        typer.Option(
            help="Layer to examine: a name that `edgegen layers` lists, a part of such a name, "
            "or mid."
        ),
    ] = "mid",
    step: Annotated[
        int | None,
        typer.Option(
            help="Sampler step to examine, counted from 1 (default: the middle step).", min=1
        ),
    ] = None,
    regions: Regions = "3x3",
    demands: Annotated[
        str,
        typer.Option(
            help="Method: gated (takes seconds) or optimised (takes minutes, closest to the paper)."
        ),
    ] = "gated",
    baseline: Annotated[
        int, typer.Option(help="Number of seeds whose mean features are the baseline.", min=2)
    ] = 1000,
    others: Annotated[
        int,
        typer.Option(
            help="Number of further seeds to compare the strongest primitives with.", min=0
        ),
    ] = 0,
    repeat: Annotated[
        bool,
        typer.Option(
            "--repeat",
            help="Optimise again from another starting point and report how stable the result is.",
        ),
    ] = False,
    show: Annotated[int, typer.Option(help="Number of primitives to show.", min=1, max=100)] = 12,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="Change a primitive: S=2,5:0.0 sets the primitive of regions 2 and 5 to "
            "strength 0; S=2,5:seed11 replaces it with the primitive of seed 11."
        ),
    ] = None,
    prompts: Prompts = None,
    lora: Lora = None,
    drop_safety_checker: DropSafetyChecker = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Split an image's features into primitives, each of which draws some of its regions."""
    from ..workflows.explain import ExplainSettings, edit_image, explain_generator

    settings = ExplainSettings(
        seed=seed,
        label=label,
        layer=layer,
        step=step,
        regions=regions,
        demands=demands,
        baseline=baseline,
        others=others,
        repeat=repeat,
        show=show,
        edits=tuple(edit or ()),
        threads=threads,
        overwrite=overwrite,
    )
    refuse_onnx(source)
    choices = source_choices(prompts, lora, drop_safety_checker)
    generator = generators.load_generator(source, output.terminal, choices)
    if out.suffix.lower() == ".png":
        edit_image(generator, out, settings, output.terminal)
        output.result("explain", {"out": str(out)})
        print(f"before, after, difference: {out}")
    else:
        result = explain_generator(generator, out, settings, output.terminal)
        _show(result)
        output.result("explain", result.to_json())
        print(f"report: {out / 'index.html'}")


def _show(result: ExplainResult) -> None:
    rows = [
        [
            drawn["regions"],
            f"{drawn['strength']:.3g}",
            _percent(drawn["inside"]),
            _percent(drawn["area"]),
        ]
        for drawn in result.report()["shown"]
    ]
    output.table(["regions", "strength", "change inside", "area"], rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
