"""edgegen finetune: adapt a generator to a user's own product photos with a small adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import output
from .moved import moved
from .options import Threads, Weights
from .training_options import (
    Background,
    BaseIfNamed,
    Batch,
    Data,
    Device,
    Fit,
    FollowLinks,
    HeldOut,
    MaxMegapixels,
    NoClasses,
    OnBad,
    OutFlag,
    Rate,
    Resume,
    RunFolder,
    Seed,
    run_folder,
)

if TYPE_CHECKING:
    from ..workflows.finetune.adapt import FinetuneResult


@moved(
    {
        "--compare": "edgegen compare RUN RUN ... -o compared.png",
        "--recover": "edgegen recover BASE RUN --plan PLAN",
    }
)
def finetune(
    base: BaseIfNamed = None,
    run: RunFolder = None,
    data: Data = None,
    out: OutFlag = None,
    resume: Resume = False,
    size: Annotated[
        int | None,
        typer.Option(
            help="Width and height of the images in pixels; at least the base's (default: the "
            "base's).",
            min=1,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapters; 0 trains every weight instead.", min=0)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--base", help="Precision of the frozen base: fp32, int8 or nf4 (default fp32)."
        ),
    ] = None,
    adam8bit: Annotated[
        bool | None, typer.Option("--adam8bit", help="Keep the optimizer's state in 8 bits.")
    ] = None,
    recompute: Annotated[
        bool | None,
        typer.Option(
            "--recompute", help="Use less memory but more time: blocks are computed twice."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps (default: the family's).", min=1)
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Train as many steps as fit into this time, such as 45m, 2h or 90s."),
    ] = None,
    batch: Batch = None,
    rate: Rate = None,
    held_out: HeldOut = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--looks",
            help="How often to compare the images with the held-out photos (default 8).",
            min=1,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many comparisons without improvement (default 3).", min=1
        ),
    ] = None,
    no_classes: NoClasses = False,
    follow_links: FollowLinks = False,
    max_megapixels: MaxMegapixels = None,
    seed: Seed = None,
    device: Device = None,
    on_bad: OnBad = "skip",
    fit: Fit = None,
    background: Background = None,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Adapt a generator to your photos by training an adapter of a few hundred kilobytes; the base
    itself stays unchanged. If you name no base, give the run folder with -o: the zoo's generator
    whose images are nearest to the photos is used.
    """
    from ..workflows.finetune.adapt import finetune as adapt
    from ..workflows.finetune.settings import FinetuneSettings

    folder = run_folder(
        run,
        out,
        "give the run folder once: `edgegen finetune BASE RUN --data PHOTOS`, or without a base "
        "`edgegen finetune --data PHOTOS -o RUN`",
    )
    if data is None:
        raise UsageError("E-USAGE", "fine-tuning needs --data")
    settings = FinetuneSettings(
        resume=resume,
        size=size,
        rank=rank,
        precision=precision,
        adam8bit=adam8bit,
        recompute=recompute,
        steps=steps,
        time=time,
        batch=batch,
        rate=rate,
        held_out=held_out,
        evaluations=evaluations,
        patience=patience,
        classes=False if no_classes else None,
        follow_links=True if follow_links else None,
        max_megapixels=max_megapixels,
        seed=seed,
        device=device,
        on_bad=on_bad,
        fit=fit,
        background=background,
        threads=threads,
        feature_weights=weights,
    )
    adapted = adapt(base, folder, data, settings, output.terminal)
    output.result("finetune", adapted.to_json())
    _show(adapted)
    print(_next(adapted, folder))


def _next(adapted: FinetuneResult, folder: Path) -> str:
    """Return the last line of output, which says what to do with the run."""
    look = f"edgegen generate {folder} -o site.png"
    if adapted.far:
        return (
            f"adapted: {folder}  these pictures are not your products yet; next: look at them "
            f"({look}), then try a longer --time, more photos or another base"
        )
    return f"adapted: {folder}  next: {look}, edgegen export {folder} --int8 -o out/"


def _show(adapted: FinetuneResult) -> None:
    from ..core.verdict import Interval
    from ..workflows.finetune.periodic_eval import interval_text, ratio_text

    last = adapted.last
    rows = [
        [name, *(interval_text(Interval(**last[side][name])) for side in ("base", "adapted"))]
        for name in ("KID", "FD")
    ]
    output.table(["distance to the held-out photos", "base", "adapted"], rows)
    scale = last["scale"]
    ends = {
        "other photos": "photos",
        f"the same, blurred by {scale['blur_sigma']:g} px": "blurred",
        "adapted": "adapted",
        "base": "base",
    }
    rows = [
        [name, *(interval_text(Interval(**scale[side][name])) for side in ends.values())]
        for name in ("KID", "FD")
    ]
    output.table([f"the same, of {scale['images']} images each", *ends], rows)
    memory = last["memory"]
    print(
        f"FD x {ratio_text(last['ratio'])}; near-copies {memory['near_copies']} of "
        f"{last['images']} images; novelty {memory['features']['ratio']:.2f}; {last['what']}"
    )
    if recognition := last["recognition"]:
        print(_recognised(recognition))
    if rounded := last.get("rounded_base"):
        print(
            f"images on the {adapted.precision} base and those that ship: "
            f"{rounded['psnr_db']:.1f} dB"
        )


def _recognised(recognition: Mapping[str, Any]) -> str:
    """Return the entry about recognition in looks.json in words."""
    from ..core.verdict import Interval
    from ..workflows.finetune.periodic_eval import interval_text

    share = recognition["share"]
    beyond = (
        "your held-out photos are not told apart beyond chance either"
        if share is None
        else f"beyond chance {interval_text(Interval(**share))} of what held-out photos reach"
    )
    return (
        f"recognised: a classifier of your photos names {recognition['generated']:.0%} of the "
        f"generated images as what they were asked to be, {recognition['held_out']:.0%} of "
        f"held-out photos, {recognition['chance']:.0%} by chance; {beyond} "
        f"(means over {recognition['classes']} classes)"
    )
