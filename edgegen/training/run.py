"""A training run on disk: start or resume, checkpoint as it goes, leave weights that generate and export read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from filelock import FileLock, Timeout

from ..core.files import PREFIX, disk_error, read_json, to_json, write_bytes
from ..errors import Busy, InputError, UsageError
from ..families import Judged, Recipe, family
from . import checkpoint
from .device import device_of
from .loop import Trainer, shipped
from .order import mix
from .source import Source
from .stop import Stop

LESSONS = 400  # batches that a judge is taught with
Progress = Callable[[Trainer, dict[str, float]], None]


@dataclass(frozen=True)
class Settings:
    """What one run is: everything here must be the same when it resumes."""

    family: str
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    device: str = "cpu"
    compiled: bool = False


def train(settings: Settings, photos: Source, out: Path, resume: bool, every: int, progress: Progress) -> Path:
    """Train until the recipe's images are seen; returns the weights' path. A checkpoint every `every` steps and at the end.

    SIGINT, SIGTERM and SIGHUP finish the step, write a checkpoint and raise KeyboardInterrupt(signal number); a second one
    raises it at once. Raises UsageError for a folder that holds another run, Busy for one in use.
    """
    if every < 1:
        raise UsageError("E-USAGE", f"a checkpoint can be written every 1 or more steps, got {every}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(settings.seed, 0, "init"))
        generator = family(settings.family).build(settings.recipe.config)
    device = device_of(settings.device)
    trainer = Trainer.start(generator, settings.recipe, photos, settings.seed, device, compiled=settings.compiled)
    about = _about(settings, photos)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    home = out.resolve()
    try:
        with FileLock(home.with_name(home.name + ".lock"), timeout=0):
            _claim(out, about, resume)
            if resume and checkpoint.newest(out) is not None:
                checkpoint.resume(out, trainer)
            _rewind(out / "metrics.jsonl", trainer.step)
            with Stop() as stop:
                _teach(trainer, out / checkpoint.JUDGE)
                with open(out / "metrics.jsonl", "a", encoding="utf-8") as log:
                    _loop(trainer, out, every, progress, log, stop)
            weights = out / checkpoint.WEIGHTS
            write_bytes(weights, checkpoint.to_bytes(shipped(trainer)))
            return weights
    except Timeout as error:
        raise Busy("E-LOCKED", "another run is training into this folder", path=out) from error


def _loop(trainer: Trainer, out: Path, every: int, progress: Progress, log: TextIO, stop: Stop) -> None:
    """Steps and checkpoints; what interrupts does so between steps only, where all objectives have had their turn."""
    stop.check()
    for report in trainer.run():
        line = {"step": trainer.step, "images": trainer.images, **{k: v if math.isfinite(v) else None for k, v in report.items()}}
        log.write(json.dumps(line) + "\n")
        progress(trainer, report)
        if stop.signal is not None or trainer.step % every == 0 or trainer.step == trainer.steps:
            log.flush()
            os.fsync(log.fileno())  # before the checkpoint: a resumed run finds every line up to its step
            checkpoint.save(out, trainer)
        stop.check()


def _rewind(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last one that a kill cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line)
        except (ValueError, TypeError, KeyError):
            continue
    write_bytes(path, b"".join(kept))


def _teach(trainer: Trainer, path: Path) -> None:
    """Give the generator's judge, if it has one, the network of this run: taught at its start, then read."""
    generator = trainer.generator
    if not isinstance(generator, Judged) or generator.judge is None:
        return
    if trainer.step == 0 and not path.exists():
        generator.teach(trainer.lessons(LESSONS))
        write_bytes(path, checkpoint.to_bytes(generator.judge.state_dict()))
    checkpoint.load_judge(generator.judge, path)


def _about(settings: Settings, photos: Source) -> dict[str, Any]:
    recipe = {k: v for k, v in vars(settings.recipe).items() if k != "config"}
    return {
        **checkpoint.describe(settings.family, settings.recipe.config),
        "recipe": {"name": settings.recipe_name, **recipe}, "seed": settings.seed,
        "data": {"sha256": photos.fingerprint, "images": len(photos), "classes": list(photos.classes)},
        "torch": torch.__version__, "threads": torch.get_num_threads(),  # these change how sums round
        "device": settings.device, "compiled": settings.compiled,
    }


def recorded_threads(out: Path) -> int | None:
    """CPU threads the run in `out` was started with; None where there is no such run."""
    path = out / "run.json"
    found = read_json(path).get("threads") if path.is_file() else None
    return found if isinstance(found, int) and found > 0 else None


def _claim(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Write run.json, or hold a resumed run to the one that is there."""
    path = out / "run.json"
    if not path.exists():
        if any(not entry.name.startswith(PREFIX) for entry in out.iterdir()):
            raise UsageError("E-OUT-EXISTS", "the run folder is not empty and not a run", path=out)
        write_bytes(path, to_json(about))
        return
    if not resume:
        raise UsageError("E-OUT-EXISTS", "a run is there already", path=out, hint="add --resume, or choose another --out")
    before, now = _flat(read_json(path)), _flat(json.loads(to_json(about)))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UsageError("E-RESUME-MISMATCH", f"the run was started with another {key}", path=path,
                             hint=f"then {before.get(key)!r}, now {now.get(key)!r}")


def _flat(data: Any, name: str = "") -> dict[str, Any]:
    """{"recipe": {"batch": 64}} -> {"recipe.batch": 64}."""
    if not isinstance(data, dict):
        return {name: data}
    return {k: v for key, value in data.items() for k, v in _flat(value, f"{name}.{key}" if name else key).items()}


def load(folder: Path) -> tuple[dict[str, Any], Any]:
    """A finished run: its description and its generator with the averaged weights."""
    about = read_json(folder / "run.json")
    weights = folder / checkpoint.WEIGHTS
    if not weights.is_file():
        raise InputError("E-RUN-OPEN", "this run has not ended yet", path=folder, hint="finish it with --resume")
    generator = checkpoint.build(about, folder / "run.json")
    checkpoint.load_into(generator, checkpoint.read_weights(weights), weights)
    generator.networks.eval()
    return about, generator
