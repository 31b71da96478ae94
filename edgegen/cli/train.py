"""edgegen train: a folder of photos to a trained generator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UsageError
from ..training.size_estimate import tell
from ..workflows.photo_sets import (
    EVERY,
    FEWEST,
    REFERENCE_IMAGES,
    counted,
    not_used,
    tell_bad,
    write_reference,
)
from . import output
from .options import (
    Background,
    Fit,
    OnBad,
    Threads,
    Weights,
    cores,
    fit_of,
    hex_of,
    need_torch,
    on_bad_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..families import Family, Recipe
    from ..training.folder import Bad


def train(
    name: Annotated[str, typer.Argument(help="Family, such as cas-dm.", metavar="FAMILY")],
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder: checkpoints, metrics, and at the end the weights."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Photos: class folders, metadata.jsonl, IDX files or tar shards."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder as a flag.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run bit for bit; it knows its settings.")
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="One of the family's recipes; its first, if not said.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Training images to see instead of the recipe's.", min=1)
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of the config: steps=8.", metavar="NAME=VALUE"),
    ] = None,
    kde_centroids: Annotated[
        int | None, typer.Option(help="dkgm: centroids a class in its bank, instead of photos.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images a step instead of the recipe's.", min=1)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order and noise; 0, if not said.", min=0)
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Train this objective alone, for the whole run.", metavar="OBJECTIVE"),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Run folder or zoo name whose weights to start from.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cpu, if not said.")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the networks; slow to start.")
    ] = False,
    samples_every: Annotated[
        int,
        typer.Option(help="Steps between grids of images in the run folder; 0 for none.", min=0),
    ] = 0,
    keep: Annotated[int, typer.Option(help="Checkpoints that stay.", min=1)] = 2,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Losses and grids for TensorBoard, too.")
    ] = False,
    on_bad: OnBad = "skip",
    fit: Fit = None,
    background: Background = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how large the training is; no data.")
    ] = False,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Train in full precision; Ctrl-C writes a checkpoint that --resume continues exactly."""
    bad = on_bad_of(on_bad)
    need_torch()
    import torch

    from ..evidence.features import feature_network
    from ..families import Continuing, family
    from ..training.checkpoint import parse
    from ..training.device import device_of
    from ..training.processes import joined, local_rank
    from ..training.record import summary_writer
    from ..training.run import Recorded, Settings, Start
    from ..training.run import train as train_on
    from ..training.source import open_source
    from ..workflows.config_changes import changed

    folder = None if dry_run else _folder(run, out)
    then = Recorded.of(folder) if resume and folder else Recorded()
    fitted, ground = fit_of(fit or then.fit), hex_of(background or then.background)
    where, found = device or then.device or "cpu", family(name)
    recipe_name, plan = _recipe(
        found, recipe or then.recipe_name, images or then.images, batch or then.batch
    )
    if folder and then.family == name and then.config is not None and recipe is None:
        plan = replace(plan, config=parse(found.config, then.config, folder / "run.json"))
    centroids = (
        ["bank=centroids", f"kde_centroids={kde_centroids}"] if kde_centroids is not None else []
    )
    plan = replace(plan, config=changed(found, plan.config, [*(change or []), *centroids]))
    if folder is None:
        torch.set_num_threads(threads or cores())
        return tell(name, recipe_name, plan)
    if data is None:
        raise UsageError("E-USAGE", "training needs --data", hint="--dry-run needs none")
    start = _start(init) if init else None
    continues = isinstance(plan.config, Continuing) and plan.config.continues
    if continues and start:
        plan = replace(plan, config=plan.config.onto(start.config(found)))
    elif continues and not then.init:
        raise UsageError(
            "E-INIT",
            f"{recipe_name} trains a finished generator on",
            hint="name it: --init, a run or a zoo name",
        )
    with joined(where) as world, contextlib.ExitStack() as stack:
        show = _silent if world.rank else output.progress
        device_of(where, local_rank())  # what is not there is told before the photos are read
        if tensorboard:
            summary_writer()
        torch.set_num_threads(threads or then.threads or max(1, cores() // world.size))
        with show("reading photos") as advance:
            photos, report = stack.enter_context(
                open_source(
                    data,
                    plan.config.size,
                    ground,
                    on_bad=bad,
                    fit=fitted,
                    progress=lambda _, __: advance(1),
                    workers=max(1, cores() // world.size),
                    tell=not_used if world.rank == 0 else _unsaid,
                )
            )
        if len(photos) < FEWEST:
            raise InputError(
                "E-DATA-TOO-FEW", f"{len(photos)} photos, {FEWEST} are needed", path=data
            )
        if continues and plan.config.classes != (drawn := len(photos.classes)):
            raise InputError(
                "E-DATA-CLASSES",
                f"the generator has {plan.config.classes} classes, the photos {drawn}",
                path=data,
                hint="give it the photos it was trained on",
            )
        if not continues:
            plan = replace(plan, config=replace(plan.config, classes=len(photos.classes)))
        settings = Settings(
            name,
            recipe_name,
            plan,
            (then.seed or 0) if seed is None else seed,
            where,
            compiled or bool(then.compiled),
            only or then.only,
            start.digest if start else then.init,
            fitted,
            ground,
        )
        if world.rank == 0:
            tell_bad(report())
            network = "inception-v3" if weights else "efficientnet-lite0"
            feature_network(network, weights)  # missing weights are told before the training
        with show(f"training {name}", plan.images, "images") as advance:
            path = train_on(
                settings,
                photos,
                folder,
                resume,
                EVERY,
                counted(advance),
                keep,
                samples_every,
                tensorboard,
                Start(start.tensors, start.path) if start else None,
                world,
            )
        if world.rank:
            return
        with output.progress("reference statistics", min(len(photos), REFERENCE_IMAGES)) as advance:
            write_reference(photos, folder / "reference.safetensors", weights, advance)
        output.result(
            "train",
            {
                "out": str(folder),
                "weights": str(path),
                "images": plan.images,
                "photos": report().to_json(),
            },
        )
    print(f"trained: {folder}  next: edgegen export {folder} --int8 -o out/")


def _folder(run: Path | None, out: Path | None) -> Path:
    """The run folder, named in one of two ways."""
    if (run is None) == (out is None):
        raise UsageError(
            "E-USAGE",
            "name the run folder once: `edgegen train FAMILY RUN --data PHOTOS`, or with --out RUN",
        )
    return run or out or Path()


@dataclass(frozen=True)
class _Init:
    """What a training starts from: a description as in run.json, weights with their sha256, and
    where they are.
    """

    about: dict[str, Any]
    tensors: dict[str, Tensor]
    digest: str
    path: Path

    def config(self, wanted: Family) -> Any:
        """UsageError for a generator of another family."""
        from ..training.checkpoint import parse

        if (mine := self.about.get("family")) != wanted.name:
            raise UsageError(
                "E-SOURCE", f"--init is a generator of {mine}, not of {wanted.name}", path=self.path
            )
        return parse(wanted.config, self.about["config"], self.path)


def _start(name: str) -> _Init:
    """A zoo entry or a run; an adapted one with its adapter merged."""
    from ..core.bundle import sha256
    from ..core.files import read_json
    from ..training import checkpoint
    from ..training.adapt import site
    from ..zoo import entries

    zoo = {entry.name: entry for entry in entries()}
    if name in zoo:
        entry = zoo[name]
        return _Init(
            entry.card, checkpoint.read_weights(entry.weights), sha256(entry.weights), entry.weights
        )
    folder = Path(name)
    if not (folder / "run.json").is_file():
        raise UsageError(
            "E-SOURCE",
            f"--init {name!r} is no zoo name and no run of `edgegen train`",
            hint=f"the zoo has: {', '.join(zoo)}",
        )
    about = read_json(folder / "run.json")
    if isinstance(about, dict) and site.ADAPTS in about:
        tensors = site.merged(folder, about)
        return _Init(about, tensors, site.digest(tensors), folder)
    return _Init(about, *checkpoint.weights_of(folder), folder)


@contextlib.contextmanager
def _silent(
    label: str, total: int | None = None, unit: str = ""
) -> Iterator[Callable[[int], None]]:
    """output.progress of a process that shows nothing."""
    yield lambda _: None


def _unsaid(bad: Bad) -> None:
    """Of the photos that are not used, the first process tells."""


def _recipe(
    found: Family, name: str | None, images: int | None, batch: int | None
) -> tuple[str, Recipe]:
    chosen = name or next(iter(found.recipes))
    if chosen not in found.recipes:
        raise UsageError(
            "E-RECIPE", f"{found.name} has no recipe {chosen!r}; known: {', '.join(found.recipes)}"
        )
    recipe = found.recipes[chosen]()
    return chosen, replace(recipe, images=images or recipe.images, batch=batch or recipe.batch)
