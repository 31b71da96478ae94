"""edgegen train: train a generator on a folder of photos."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import UsageError
from . import output
from .moved import moved
from .options import Threads, Weights
from .training_options import (
    Background,
    Batch,
    Centroids,
    Changes,
    Data,
    Device,
    Family,
    Fit,
    FollowLinks,
    Images,
    MaxMegapixels,
    NoClasses,
    OnBad,
    OutFlag,
    RecipeName,
    Resume,
    RunFolder,
    Seed,
    changes_of,
    run_folder,
)


@moved({"--dry-run": "edgegen estimate FAMILY --recipe NAME"})
def train(
    family: Family,
    run: RunFolder = None,
    data: Data = None,
    out: OutFlag = None,
    resume: Resume = False,
    recipe: RecipeName = None,
    images: Images = None,
    change: Changes = None,
    centroids: Centroids = None,
    batch: Batch = None,
    seed: Seed = None,
    only: Annotated[
        str | None,
        typer.Option(help="Train only this objective, during the whole run.", metavar="OBJECTIVE"),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Run folder or zoo name whose weights the training starts from."),
    ] = None,
    device: Device = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Let torch compile the networks, which makes the start slow."
        ),
    ] = False,
    samples_every: Annotated[
        int,
        typer.Option(
            help="Number of steps between sample grids written to the run folder; 0 writes none.",
            min=0,
        ),
    ] = 0,
    keep: Annotated[int, typer.Option(help="Number of checkpoints to keep.", min=1)] = 2,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Also write losses and sample grids for TensorBoard."),
    ] = False,
    on_bad: OnBad = "skip",
    fit: Fit = None,
    background: Background = None,
    no_classes: NoClasses = False,
    follow_links: FollowLinks = False,
    max_megapixels: MaxMegapixels = None,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Train a generator in full precision. Ctrl-C writes a checkpoint, from which --resume
    continues exactly.
    """
    from ..workflows.train import TrainSettings
    from ..workflows.train import train as train_generator

    settings = TrainSettings(
        resume=resume,
        recipe=recipe,
        images=images,
        batch=batch,
        changes=changes_of(change, centroids),
        seed=seed,
        only=only,
        init=init,
        device=device,
        compiled=compiled,
        samples_every=samples_every,
        keep=keep,
        tensorboard=tensorboard,
        on_bad=on_bad,
        fit=fit,
        background=background,
        classes=False if no_classes else None,
        follow_links=True if follow_links else None,
        max_megapixels=max_megapixels,
        threads=threads,
        feature_weights=weights,
    )
    folder = run_folder(
        run,
        out,
        "give the run folder once: `edgegen train FAMILY RUN --data PHOTOS`, or with --out RUN",
    )
    if data is None:
        raise UsageError(
            "E-USAGE", "training needs --data", hint="`edgegen estimate` needs no photos"
        )
    trained = train_generator(family, folder, data, settings, output.terminal)
    if trained.rank == 0:
        output.result("train", trained.to_json())
        print(f"trained: {folder}  next: edgegen export {folder} --int8 -o out/")
