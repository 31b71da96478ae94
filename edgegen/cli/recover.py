"""edgegen recover: train an adapter that brings INT8 images closer to full precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateFailed
from ..workflows.finetune.settings import RecoverSettings
from . import output
from .options import Threads, Weights
from .training_options import Base, OutFlag, RunFolder, run_folder

if TYPE_CHECKING:
    from ..workflows.finetune.recover import RecoverResult


def recover(
    base: Base,
    plan: Annotated[
        Path,
        typer.Option(
            help="A bundle's plan.json, or a plan whose rules say which layers are rounded."
        ),
    ],
    run: RunFolder = None,
    out: OutFlag = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapters (default: twice the family's).", min=1)
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Number of training steps.", min=1)
    ] = RecoverSettings.steps,
    batch: Annotated[
        int, typer.Option(help="Number of images in a training step.", min=1)
    ] = RecoverSettings.batch,
    rate: Annotated[
        float, typer.Option(help="Learning rate of Adam, relative to the size of a weight.")
    ] = RecoverSettings.rate,
    seed: Annotated[int, typer.Option(help="Seed of the adapters.", min=0)] = RecoverSettings.seed,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Train an adapter that compensates the error of INT8 rounding; no photos are needed."""
    from ..workflows.finetune.recover import RecoverResult, error_text
    from ..workflows.finetune.recover import recover as learn

    folder = run_folder(
        run,
        out,
        "give the base, and the run folder once: `edgegen recover BASE RUN --plan PLAN`",
    )
    settings = RecoverSettings(rank, steps, batch, rate, seed, threads, weights)
    try:
        recovered = learn(base, plan, folder, settings, output.terminal)
    except GateFailed as refused:
        if isinstance(refused.result, RecoverResult):
            _show(refused.result)
        raise
    output.result("recover", recovered.to_json())
    _show(recovered)
    print(
        f"recovered: {folder}  squared error x {error_text(recovered.recovery)}; next: edgegen "
        f"export {folder} --int8 -o out/"
    )


def _show(recovered: RecoverResult) -> None:
    from ..workflows.finetune.recover import change_text

    sides = (recovered.recovery["before"], recovered.recovery["after"])
    output.table(
        ["INT8 against full precision, same seeds", "before", "after"],
        [
            ["PSNR of all pixels, dB", *(_decibels(side["psnr_db"]) for side in sides)],
            ["median PSNR of an image, dB", *(_decibels(side["psnr_median_db"]) for side in sides)],
            ["change of the Frechet distance", *(change_text(side["change"]) for side in sides)],
        ],
    )


def _decibels(value: float | None) -> str:
    return "no pixel differs" if value is None else f"{value:.2f}"
