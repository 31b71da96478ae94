"""A training run on disk: start or resume, checkpoint as it goes, leave weights that generate and export read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as save_tensors

from ..core.files import read_json, to_json, write_bytes
from ..errors import Busy, InputError, UsageError
from ..families import Recipe, family
from . import checkpoint
from .data import Photos
from .loop import Trainer, averaged

Progress = Callable[[Trainer, dict[str, float]], None]


@dataclass(frozen=True)
class Settings:
    """What one run is: everything here must be the same when it resumes."""

    family: str
    recipe_name: str
    recipe: Recipe
    seed: int = 0


def train(settings: Settings, photos: Photos, out: Path, resume: bool, every: int, progress: Progress) -> Path:
    """Train until the recipe's images are seen; returns the weights' path. A checkpoint every `every` steps and at the end.

    KeyboardInterrupt writes a checkpoint first. Raises UsageError for a folder that holds another run, Busy for one in use.
    """
    generator = family(settings.family).build(settings.recipe.config)
    trainer = Trainer.start(generator, settings.recipe, photos, settings.seed)
    about = _about(settings, photos)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(out.name + ".lock"), timeout=0):
            _claim(out, about, resume)
            if resume and (out / "latest").is_file():
                checkpoint.resume(out, trainer)
            with open(out / "metrics.jsonl", "a", encoding="utf-8") as log:
                _loop(trainer, out, every, progress, log)
            weights = out / checkpoint.WEIGHTS
            write_bytes(weights, save_tensors({k: v.contiguous() for k, v in averaged(trainer).items()}))
            return weights
    except Timeout as error:
        raise Busy("E-LOCKED", "another run is training into this folder", path=out) from error


def _loop(trainer: Trainer, out: Path, every: int, progress: Progress, log: Any) -> None:
    saved = trainer.step
    try:
        for report in trainer.run():
            line = {"step": trainer.step, "images": trainer.images, **{k: v if v == v else None for k, v in report.items()}}
            log.write(json.dumps(line) + "\n")
            progress(trainer, report)
            if trainer.step % every == 0:
                checkpoint.save(out, trainer)
                log.flush()
                saved = trainer.step
    finally:
        if trainer.step > saved:
            checkpoint.save(out, trainer)


def _about(settings: Settings, photos: Photos) -> dict[str, Any]:
    recipe = {k: v for k, v in vars(settings.recipe).items() if k != "config"}
    return {
        **checkpoint.describe(settings.family, settings.recipe.config),
        "recipe": {"name": settings.recipe_name, **recipe}, "seed": settings.seed,
        "data": {"sha256": photos.fingerprint, "images": len(photos), "classes": list(photos.classes)},
        "torch": torch.__version__,
    }


def _claim(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Write run.json, or hold a resumed run to the one that is there."""
    path = out / "run.json"
    if not path.exists():
        if any(out.iterdir()):
            raise UsageError("E-OUT-EXISTS", "the run folder is not empty and not a run", path=out)
        write_bytes(path, to_json(about))
        return
    if not resume:
        raise UsageError("E-OUT-EXISTS", "a run is there already", path=out, hint="add --resume, or choose another --out")
    before = read_json(path)
    for key, value in json.loads(to_json(about)).items():
        if before.get(key) != value:
            raise UsageError("E-RESUME-MISMATCH", f"the run was started with another {key}", path=path,
                             hint=f"then {before.get(key)!r}, now {value!r}")


def load(folder: Path) -> tuple[dict[str, Any], Any]:
    """A finished run: its description and its generator with the averaged weights."""
    about = read_json(folder / "run.json")
    weights = folder / checkpoint.WEIGHTS
    if not weights.is_file():
        raise InputError("E-RUN-OPEN", "this run has not ended yet", path=folder, hint="finish it with --resume")
    generator = checkpoint.build(about, folder / "run.json")
    checkpoint.load_into(generator, checkpoint.read_weights(weights), weights)
    return about, generator
