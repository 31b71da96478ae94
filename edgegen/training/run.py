"""A training run on disk: it is started or resumed, writes checkpoints, and leaves weights for
generate and export.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.disk import refusals
from ..core.faults import hit
from ..core.files import JsonObject, to_json
from ..core.graph import Generator
from ..core.temporary import PREFIX
from ..errors import InputError, UsageError
from ..families import FAMILIES, Recipe, family
from . import checkpoint
from .adapt import site
from .device import device_of, precision_on
from .digests import FILE, RUN, Digests, description, hold, keep
from .home import Home, check_metrics
from .lessons import teach
from .loop import Trainer, TrainerOptions, shipped
from .order import mix
from .processes import ALONE, World, local_rank
from .record import Record
from .recorded import Recorded, flat
from .source import Source
from .stop import FirstSignal, Stop

Progress = Callable[[Trainer, dict[str, float]], None]
Finish = Callable[[Trainer, Path], Path]


@dataclass(frozen=True)
class RunSettings:
    """The settings that define a run, all of which must be the same when it resumes."""

    family: str
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    device: str = "cpu"
    compiled: bool = False
    only: str | None = None  # the only objective that trains
    init: str | None = None  # sha256 of the weights from which it starts
    fit: str = "pad"  # how photos that are not square are fitted
    background: str = "#ffffff"  # colour under transparent pixels and around padded photos
    classes: bool = True  # whether the classes of folders and tables are learned
    follow_links: bool = False  # whether links to photos inside the folder are followed
    max_megapixels: int | None = None  # largest photo; None for the limit of its format
    eight_bit: bool = False  # whether the optimizer's state has 8 bits
    adapt: JsonObject | None = None  # the base of an adapter; None if all weights train
    finetune: JsonObject | None = None  # flags of a fine-tuning


@dataclass(frozen=True)
class InitialWeights:
    """The weights of another run, by name, with their file."""

    tensors: dict[str, Tensor]
    path: Path


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; these options may change when it resumes."""

    keep: int = checkpoint.KEEP  # number of checkpoints to keep
    samples_every: int = 0  # steps between two grids of images; 0 for none
    tensorboard: bool = False
    start: InitialWeights | None = None  # the weights of settings.init; not for a resumed run
    world: World = ALONE  # of several processes only the first writes
    generator: Generator | None = None  # trained instead of a fresh one of the settings
    # called once, before the first step of a started or resumed run
    begin: Callable[[Trainer], None] | None = None
    finish: Finish | None = None  # writes what the run leaves instead of its weights
    note: checkpoint.Note = checkpoint.silent_note  # receives messages for the user


def train(
    settings: RunSettings,
    photos: Source,
    out: Path,
    resume: bool,
    every: int,
    progress: Progress,
    options: RunOptions | None = None,
) -> Path:
    """Train until the recipe's images are seen, and return the path of the weights.

    A checkpoint is written every `every` steps and at the end. After SIGINT, SIGTERM or SIGHUP the
    step is finished, but not the call of `progress` after it; then a checkpoint is written and
    KeyboardInterrupt(signal number) is raised. A second signal raises it at once. When the run
    resumes, `options.begin` must do what `progress` had not finished. UsageError for a folder that
    holds another run, Busy for one in use.
    """
    options = options or RunOptions()
    if every < 1 or options.keep < 1:
        raise UsageError(
            "E-USAGE",
            f"a checkpoint can be written every 1 or more steps, got {every}; 1 or more stay, got "
            f"{options.keep}",
        )
    settings = _computed(settings, out, resume, options)
    trainer, world = _trainer(settings, photos, options), options.world
    about, writes = _about(settings, photos, world), world.rank == 0
    with (
        Home.held(out) if writes else contextlib.nullcontext() as home,
        Stop(patient=world.size > 1) as stop,
    ):
        if writes:
            _claim(out, about, resume)
        world.wait()
        state = _resumed(trainer, settings, out, options) if resume else {}
        world.wait()  # no process may write before all have read
        with stop.at_once():
            teach(trainer, out / checkpoint.JUDGE)
            if options.begin is not None:
                options.begin(trainer)
        with contextlib.ExitStack() as stack:
            record: Record | None = None
            if writes:
                opened = Record(out, trainer, options.samples_every, options.tensorboard)
                record = stack.enter_context(opened)
                check_metrics(out / checkpoint.METRICS, state)
            _loop(trainer, Checkpoints(out, every, options.keep, home), progress, record, stop)
            if writes:  # if it was killed after its last checkpoint, old ones are still there
                checkpoint.tidy(out, trainer.step, options.keep)
        with refusals(out):
            hit("train.ended", out)
        with stop.at_once():
            result = (options.finish or _weights)(trainer, out) if writes else out
        if home is not None:
            home.check()
        world.wait()
        return result


def _resumed(trainer: Trainer, settings: RunSettings, out: Path, options: RunOptions) -> JsonObject:
    """Load the checkpoint from which the run continues, and return its state.

    {} if the run was killed before its first; InputError if its checkpoints are gone.
    """
    if checkpoint.newest(out) is not None:
        return checkpoint.resume(out, trainer, options.note)
    kept = Digests.of(out)
    if (kept is not None and kept.checkpoint) or (out / checkpoint.WEIGHTS).is_file():
        raise InputError(
            "E-CHECKPOINT",
            "all checkpoints of this run are gone, and it will not begin anew under its old name",
            path=out,
            hint="put its newest step- folder back, or train into another folder",
        )
    if settings.init and options.start is None and options.generator is None:
        raise UsageError(
            "E-INIT",
            "the run ended before its first checkpoint",
            path=out,
            hint="name the same --init again",
        )
    options.note("W-CHECKPOINT: the run ended before its first checkpoint and begins at step 0")
    return {}


def _computed(settings: RunSettings, out: Path, resume: bool, options: RunOptions) -> RunSettings:
    """Return the settings with the precision that the device supports, or for a resumed run the
    precision in which it was begun.
    """
    recipe = settings.recipe
    begun = Recorded.of(out).precision if resume else None
    precision = begun or precision_on(settings.device, recipe.precision)
    if begun is None and precision != recipe.precision:
        options.note(
            f"W-PRECISION: this processor has no arithmetic for {recipe.precision}: the run "
            f"computes in {precision}"
        )
    return replace(settings, recipe=replace(recipe, precision=precision))


def _trainer(settings: RunSettings, photos: Source, options: RunOptions) -> Trainer:
    """Return the run at step 0, with the given generator or a fresh one, and its start weights."""
    generator = options.generator
    if generator is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(settings.seed, 0, "init"))
            generator = family(settings.family).build(settings.recipe.config)
    if options.start is not None:
        checkpoint.start_from(generator.networks, options.start.tensors, options.start.path)
    how = TrainerOptions(
        device_of(settings.device, local_rank()),
        options.world,
        settings.only,
        settings.compiled,
        settings.eight_bit,
        settings.finetune is not None,
    )
    return Trainer.start(generator, settings.recipe, photos, settings.seed, how)


def _weights(trainer: Trainer, out: Path) -> Path:
    keep(out, {checkpoint.WEIGHTS: checkpoint.to_bytes(shipped(trainer))})
    return out / checkpoint.WEIGHTS


class Checkpoints(NamedTuple):
    """The folder of checkpoints, the steps between them, and how many are kept.

    home: the run folder of the process that writes them, None in the others.
    """

    folder: Path
    every: int
    keep: int
    home: Home | None


def _loop(
    trainer: Trainer,
    checkpoints: Checkpoints,
    progress: Progress,
    record: Record | None,
    stop: Stop,
) -> None:
    """Run steps and write checkpoints; interrupts take effect only between steps."""
    world, device = trainer.world, trainer.device
    stop.check()
    for report in trainer.run():
        with refusals(checkpoints.folder):
            hit("train.step", checkpoints.folder)
        if checkpoints.home is not None:
            checkpoints.home.check()
        if record is not None:
            record.step(report)
        with contextlib.suppress(FirstSignal), stop.at_once():
            progress(trainer, report)  # evaluating the images may take minutes
        # processes receive a signal at different steps
        stop.signal = world.largest(stop.signal or 0, device) or None
        due = trainer.step % checkpoints.every == 0 or trainer.over
        if record is not None and (stop.signal is not None or due):
            record.sync()
            checkpoint.save(checkpoints.folder, trainer, checkpoints.keep)
        if stop.signal is not None:
            world.wait()  # for the process that writes, because the first to exit ends all
        stop.check()


def _about(settings: RunSettings, photos: Source, world: World) -> JsonObject:
    recipe = {k: v for k, v in vars(settings.recipe).items() if k != "config"}
    return {
        **checkpoint.describe(settings.family, settings.recipe.config),
        "recipe": {"name": settings.recipe_name, **recipe},
        "seed": settings.seed,
        "data": {
            "sha256": photos.fingerprint,
            "images": len(photos),
            "classes": list(photos.classes),
            "fit": settings.fit,
            "background": settings.background,
            **({} if settings.classes else {"no_classes": True}),
            **({"follow_links": True} if settings.follow_links else {}),
            **({"max_megapixels": most} if (most := settings.max_megapixels) else {}),
        },
        # these affect the rounding of sums
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": settings.device,
        "compiled": settings.compiled,
        "processes": world.size,
        "only": settings.only,
        "init": settings.init,
        **({"eight_bit": True} if settings.eight_bit else {}),
        **({site.ADAPTS: dict(settings.adapt)} if settings.adapt else {}),
        **({"finetune": dict(settings.finetune)} if settings.finetune else {}),
    }


def check_free(out: Path, resume: bool) -> None:
    """Raise UsageError if the folder holds something else than a run, or a run and not `resume`."""
    if (out / RUN).exists():
        if not resume:
            raise UsageError(
                "E-OUT-EXISTS",
                "a run is there already",
                path=out,
                hint="add --resume, or choose another --out",
            )
    elif out.is_dir() and any(
        entry.name != FILE and not entry.name.startswith(PREFIX) for entry in out.iterdir()
    ):
        raise UsageError("E-OUT-EXISTS", "the run folder is not empty and not a run", path=out)


def _claim(out: Path, about: JsonObject, resume: bool) -> None:
    """Write run.json, or check that a resumed run has the settings of the present one."""
    check_free(out, resume)
    path = out / RUN
    if not path.exists():
        keep(out, {RUN: to_json(about)})
        return
    before, now = flat(_filled(description(out), path)), flat(json.loads(to_json(about)))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UsageError(
                "E-RESUME-MISMATCH",
                f"the run was started with another {key}",
                path=path,
                hint=f"then {before.get(key)!r}, now {now.get(key)!r}",
            )


def _filled(about: object, path: Path) -> object:
    """Return a description in which config fields that are newer than it have their defaults."""
    if not isinstance(about, dict) or about.get("family") not in FAMILIES:
        return about
    config = checkpoint.parse(family(about["family"]).config, about.get("config"), path)
    return about | json.loads(to_json(checkpoint.describe(about["family"], config)))


def load(folder: Path) -> tuple[JsonObject, Generator]:
    """Load a finished run: its description, and its generator with the averaged weights, or for an
    adapted run the base with the adapter merged into it.
    """
    about = description(folder)
    weights = folder / checkpoint.WEIGHTS
    if site.ADAPTS in about:
        generator = checkpoint.build(about, folder / RUN)
        generator.networks.load_state_dict(site.merged(folder, about))
        generator.networks.eval()
        return about, generator
    if not (weights.is_file() or weights.is_symlink()):
        raise InputError(
            "E-RUN-OPEN", "this run has not ended yet", path=folder, hint="finish it with --resume"
        )
    hold(folder, checkpoint.WEIGHTS)
    generator = checkpoint.build(about, folder / RUN)
    checkpoint.load_into(generator, checkpoint.read_weights(weights), weights)
    generator.networks.eval()
    return about, generator
