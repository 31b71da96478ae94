"""edgegen finetune: a trained generator to a site's own product photos, as a small adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UsageError
from ..workflows.finetune.setup import KINDS
from ..workflows.photo_sets import EVERY, FEWEST, counted, tell_bad, write_reference
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
    from ..training.data import Photos
    from ..workflows.finetune.setup import Options


def finetune(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Zoo name or run, and the run folder unless -o names it.", metavar="BASE [RUN]"
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Photos: class folders or metadata.jsonl.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The run folder as a flag.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run bit for bit; it knows its settings.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the named runs side by side instead.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels a side, the base's or more; the base's, if not said.", min=1),
    ] = None,
    recover: Annotated[
        Path | None, typer.Option(help="A bundle's plan.json: bring INT8 images nearer; no --data.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the adapters; 0 trains every weight instead.", min=0)
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Precision of the frozen base: fp32, int8 or nf4; fp32, if not said."),
    ] = None,
    adam8bit: Annotated[
        bool, typer.Option("--adam8bit", help="Keep the optimizer's state in 8 bits.")
    ] = False,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Less memory, more time: blocks are computed twice.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Training steps instead of the family's.", min=1)
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="As many steps as fit into it: 45m, 2h, 90s.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.", min=1)] = None,
    rate: Annotated[
        float | None, typer.Option(help="Adam's learning rate instead of the family's.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(help="Share of the photos that is only looked at; 0.1 or more.")
    ] = None,
    looks: Annotated[
        int | None,
        typer.Option(help="Times the held-out photos are compared; 8, if not said.", min=1),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Looks without improvement before it ends; 3.", min=1)
    ] = None,
    no_classes: Annotated[
        bool, typer.Option("--no-classes", help="Sub-folders are no classes to draw by.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of order, noise and adapters; 0, if not said.", min=0)
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cpu, if not said.")] = None,
    on_bad: OnBad = "skip",
    fit: Fit = None,
    background: Background = None,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Adapt a generator to your photos; the adapter is a few hundred kilobytes, the base stays as
    it is.
    """
    need_torch()
    if compare:
        from ..workflows.finetune.compare import side_by_side

        return side_by_side([Path(name) for name in names], out)
    folder = _folder(names, out)
    if recover is not None:
        others = {
            "--data": data,
            "--base": base,
            "--time": time,
            "--held-out": held_out,
            "--looks": looks,
            "--patience": patience,
            "--device": device,
            "--fit": fit,
            "--background": background,
            "--size": size,
            "--resume": resume or None,
            "--adam8bit": adam8bit or None,
            "--recompute": recompute or None,
            "--no-classes": no_classes or None,
            "--rank 0": rank == 0 or None,
        }
        if about_photos := [flag for flag, value in others.items() if value is not None]:
            raise UsageError(
                "E-USAGE",
                "--recover learns from the generator itself, without photos: leave out "
                + ", ".join(about_photos),
            )
        from ..workflows.finetune.recover import recover as learn

        return learn(
            names[0], recover, folder, rank, steps, batch, rate, seed, threads or cores(), weights
        )
    if data is None:
        raise UsageError("E-USAGE", "fine-tuning needs --data")
    if base is not None and base not in KINDS:
        raise UsageError(
            "E-USAGE", f"--base must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {base!r}"
        )
    if steps is not None and time is not None:
        raise UsageError("E-USAGE", "--steps and --time both say how long: give one")
    import torch

    from ..evidence.features import feature_network
    from ..training.adapt.library import importing
    from ..training.device import device_of
    from ..training.run import train as train_on
    from ..workflows.finetune.base import open_base
    from ..workflows.finetune.periodic_eval import Looks
    from ..workflows.finetune.setup import Plan, apart, options, within

    found = open_base(names[0])
    given = {
        "size": size,
        "rank": rank,
        "precision": base,
        "adam8bit": adam8bit or None,
        "recompute": recompute or None,
        "batch": batch,
        "rate": rate,
        "held_out": held_out,
        "looks": looks,
        "patience": patience,
        "classes": False if no_classes else None,
        "seed": seed,
        "device": device,
        "fit": fit and fit_of(fit),
        "background": background and hex_of(background),
    }
    if rank != 0:
        with importing("peft"):
            import peft  # noqa: F401  # told before the photos are read, if it is not here
    chosen = options(given, folder if resume else None, found)
    device_of(chosen.device)
    found = found.at(chosen.size, chosen.seed)
    torch.set_num_threads(threads or cores())
    network = feature_network("inception-v3" if weights else "efficientnet-lite0", weights)
    photos = _photos(data, on_bad, chosen)
    chosen, train, held = apart(photos, chosen)
    plan = Plan.of(found, train, chosen)
    if steps is not None:
        plan = plan.lasting(steps * plan.recipe.batch)
    elif time is not None and chosen.images is None:  # a resumed run knows how long it is
        plan = plan.lasting(within(time, plan, train))
    watch = Looks(folder, plan, train, held, network)
    with output.progress(f"adapting {found.name}", plan.recipe.images, "images") as advance:
        count = counted(advance)

        def after(trainer: Any, report: dict[str, float]) -> None:
            count(trainer, report)
            watch.after(trainer)

        train_on(
            plan.settings(),
            train,
            folder,
            resume,
            EVERY,
            after,
            generator=plan.generator(),
            begin=watch.begin,
            finish=watch.finish,
        )
    with output.progress("reference statistics", len(photos)) as advance:
        write_reference(photos, folder / "reference.safetensors", weights, advance)
    output.result("finetune", {"out": str(folder), **watch.to_json()})
    watch.tell()
    print(
        f"adapted: {folder}  next: edgegen generate {folder} -o site.png, edgegen export {folder} "
        "--int8 -o out/"
    )


def _folder(names: list[str], out: Path | None) -> Path:
    if len(names) > 2 or (len(names) == 2) == (out is not None):
        raise UsageError(
            "E-USAGE",
            "name the base, and the run folder once: `edgegen finetune BASE RUN --data PHOTOS`",
        )
    return out or Path(names[1])


def _photos(data: Path, on_bad: str, chosen: Options) -> Photos:
    from ..training.data import Photos, load

    with output.progress("reading photos") as advance:
        photos, report = load(
            data,
            chosen.size,
            chosen.background,
            on_bad=on_bad_of(on_bad),
            fit=fit_of(chosen.fit),
            progress=lambda _, __: advance(1),
        )
    tell_bad(report)
    if len(photos) < 2 * FEWEST:
        raise InputError(
            "E-DATA-TOO-FEW", f"{len(photos)} photos, {2 * FEWEST} are needed", path=data
        )
    return photos if chosen.classes else Photos(photos.pixels, photos.labels * 0, ())
