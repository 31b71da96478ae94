"""A training run on disk: start or resume, checkpoint as it goes, leave weights that generate and
export read.
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
    """What one run is: everything here must be the same when it resumes."""

    family: str
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    device: str = "cpu"
    compiled: bool = False
    only: str | None = None  # the one objective that trains
    init: str | None = None  # sha256 of the weights it starts from
    fit: str = "pad"  # what became of photos that are not square
    background: str = "#ffffff"  # under what is transparent, around what is padded
    classes: bool = True  # that folders and tables say are learned
    follow_links: bool = False  # to photos inside the folder
    max_megapixels: int | None = None  # of a photo; None for what its format bears
    eight_bit: bool = False  # the optimizer's state
    adapt: JsonObject | None = None  # which base it stands on; None where every weight trains
    finetune: JsonObject | None = None  # flags of a fine-tuning


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another run, by name, with the file they are from."""

    tensors: dict[str, Tensor]
    path: Path


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out: none of it need be the same when it resumes."""

    keep: int = checkpoint.KEEP  # checkpoints that stay
    samples_every: int = 0  # steps between two grids of images; 0 for none
    tensorboard: bool = False
    start: InitialWeights | None = None  # those that settings.init names; a resumed run needs none
    world: World = ALONE  # of several processes the first writes
    generator: Generator | None = None  # what to train instead of a fresh one of the settings
    # called once, where the run begins or goes on
    begin: Callable[[Trainer], None] | None = None
    finish: Finish | None = None  # writes what the run leaves instead of its weights
    note: checkpoint.Note = checkpoint.silent_note  # told what a user should know


def train(
    settings: RunSettings,
    photos: Source,
    out: Path,
    resume: bool,
    every: int,
    progress: Progress,
    options: RunOptions | None = None,
) -> Path:
    """Train until the recipe's images are seen; returns the weights' path.

    A checkpoint every `every` steps and at the end. SIGINT, SIGTERM and SIGHUP finish the step, not
    what `progress` does after it, write a checkpoint and raise KeyboardInterrupt(signal number); a
    second one raises it at once. `options.begin` has to do what `progress` then has not done.
    Raises UsageError for a folder that holds another run, Busy for one in use.
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
        world.wait()  # nobody writes before all have read
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
            if writes:  # a run that was killed between its last checkpoint and the tidying
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
    """Where the run goes on: the state of its checkpoint; empty where it was killed before its
    first. InputError where its checkpoints are gone.
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
    """With the precision that the device computes in, or in which a resumed run was begun."""
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
    """The run at its step 0: of the generator that is given, or of a fresh one, with the weights
    that it starts from.
    """
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
    )
    return Trainer.start(generator, settings.recipe, photos, settings.seed, how)


def _weights(trainer: Trainer, out: Path) -> Path:
    keep(out, {checkpoint.WEIGHTS: checkpoint.to_bytes(shipped(trainer))})
    return out / checkpoint.WEIGHTS


class Checkpoints(NamedTuple):
    """Where they are written, the steps from one to the next, and how many stay; home: of the
    process that writes them.
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
    """Steps and checkpoints; what interrupts does so between steps only, where all objectives have
    had their turn.
    """
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
            progress(trainer, report)  # a look at the images may take minutes
        # processes hear of a signal at different steps
        stop.signal = world.largest(stop.signal or 0, device) or None
        due = trainer.step % checkpoints.every == 0 or trainer.over
        if record is not None and (stop.signal is not None or due):
            record.sync()
            checkpoint.save(checkpoints.folder, trainer, checkpoints.keep)
        if stop.signal is not None:
            world.wait()  # for the one that writes: the first to leave ends all
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
        # these change how sums round
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
    """UsageError for a folder that holds something else than a run, or a run that is not resumed;
    told before any work, too.
    """
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
    """Write run.json, or hold a resumed run to the one that is there."""
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
    """A description with the fields that its family's config has got since at what they are when
    nobody says.
    """
    if not isinstance(about, dict) or about.get("family") not in FAMILIES:
        return about
    config = checkpoint.parse(family(about["family"]).config, about.get("config"), path)
    return about | json.loads(to_json(checkpoint.describe(about["family"], config)))


def load(folder: Path) -> tuple[JsonObject, Generator]:
    """A finished run: its description and its generator with the averaged weights, an adapted one's
    adapter merged into them.
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
