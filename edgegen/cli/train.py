"""edgegen train: a folder of photos to a trained generator."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InputError, UsageError
from . import output
from .dry_run import tell
from .options import Threads, Weights, need_torch

if TYPE_CHECKING:
    from ..families import Family, Recipe
    from ..training.data import Report
    from ..training.folder import Bad
    from ..training.source import Source

EVERY = 500          # steps between checkpoints
REFERENCE_IMAGES = 10_000  # at most; the distance needs no more
FEWEST = 8           # photos: two images for each direction of the reference, and more than one of these
DIRECTIONS = 128     # of the projected reference, when there are photos enough for them


def train(
    name: Annotated[str, typer.Argument(help="Family, such as cas-dm.", metavar="FAMILY")],
    data: Annotated[Path | None, typer.Option(help="Photos: class folders, metadata.jsonl, IDX files or tar shards.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder: checkpoints, metrics, and at the end the weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, bit for bit, on its threads.")] = False,
    recipe: Annotated[str | None, typer.Option(help="One of the family's recipes; its first, if not said.")] = None,
    images: Annotated[int | None, typer.Option(help="Training images to see instead of the recipe's.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and noise.", min=0)] = 0,
    on_bad: Annotated[str, typer.Option(help="What a photo that cannot be read does: skip (and name it) or fail.")] = "skip",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch compile the networks; slow to start.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how large the training is; no data.")] = False,
    threads: Threads = 0,
    weights: Weights = None,
    json: output.Json = False,
) -> None:
    """Train in full precision; Ctrl-C writes a checkpoint that --resume continues exactly."""
    if on_bad not in ("skip", "fail"):
        raise UsageError("E-USAGE", f"--on-bad must be skip or fail, got {on_bad!r}")
    need_torch()
    import torch

    from ..evidence.features import feature_network
    from ..families import family
    from ..training.device import device_of
    from ..training.run import Settings, recorded_threads, train
    from ..training.source import open_source
    from .options import cores

    found = family(name)
    recipe_name, settings = _recipe(found, recipe, images)
    if dry_run:
        torch.set_num_threads(threads or cores())
        return tell(name, recipe_name, settings)
    if data is None or out is None:
        raise UsageError("E-USAGE", "training needs --data and --out", hint="--dry-run needs neither")
    device_of(device)  # a GPU that is not there is told before the photos are read
    torch.set_num_threads(threads or (recorded_threads(out) if resume else None) or cores())
    with contextlib.ExitStack() as stack:
        with output.progress("reading photos") as advance:
            photos, report = stack.enter_context(open_source(
                data, settings.config.size, on_bad=_on_bad(on_bad), progress=lambda _, __: advance(1), tell=not_used))
        _tell(report())
        settings = replace(settings, config=replace(settings.config, classes=len(photos.classes)))
        if len(photos) < FEWEST:
            raise InputError("E-DATA-TOO-FEW", f"{len(photos)} photos, {FEWEST} are needed", path=data)
        feature_network("inception-v3" if weights else "efficientnet-lite0", weights)  # missing weights are told before training
        with output.progress(f"training {name}", settings.images) as advance:
            path = train(Settings(name, recipe_name, settings, seed, device, compiled), photos, out, resume, EVERY,
                         lambda trainer, _: advance(trainer.recipe.batch))
        with output.progress("reference statistics", min(len(photos), REFERENCE_IMAGES)) as advance:
            _reference(photos, out / "reference.safetensors", weights, advance)
        output.result("train", {"out": str(out), "weights": str(path), "images": settings.images, "photos": report().to_json()})
    print(f"trained: {out}  next: edgegen export {out} --int8 -o out/")


def _recipe(found: Family, name: str | None, images: int | None) -> tuple[str, Recipe]:
    chosen = name or next(iter(found.recipes))
    if chosen not in found.recipes:
        raise UsageError("E-RECIPE", f"{found.name} has no recipe {chosen!r}; known: {', '.join(found.recipes)}")
    recipe = found.recipes[chosen]()
    return chosen, replace(recipe, images=images) if images else recipe


def _on_bad(word: str) -> Literal["skip", "fail"]:
    return "fail" if word == "fail" else "skip"


def not_used(bad: Bad) -> None:
    """A photo that is not used, by name: on stderr, since it is no result."""
    from ..training.data import shown

    output.note(f"not used: {shown(bad.name)}: {bad.code} {bad.reason}")


def _tell(report: Report) -> None:
    """Every photo that is not used, and what was changed or is odd, by count and first name."""
    from ..training.data import shown

    for bad in report.bad:
        not_used(bad)
    for code, names in report.warnings.items():
        output.note(f"{code}: {len(names)} (such as {shown(names[0])})")


def _reference(photos: Source, path: Path, weights: Path | None, advance: Any) -> None:
    """Statistics that exports of this run are proven against."""
    import numpy as np

    from ..evidence import reference
    from ..evidence.features import feature_network
    from ..training.source import sample

    network = feature_network("inception-v3" if weights else "efficientnet-lite0", weights)
    pixels = sample(photos, REFERENCE_IMAGES)
    parts = []
    for start in range(0, len(pixels), 64):
        parts.append(network(pixels[start : start + 64]))
        advance(len(parts[-1]))
    directions = min(DIRECTIONS, len(pixels) // 4)
    reference.build(np.concatenate(parts), network, "training photos", directions).write(path)
