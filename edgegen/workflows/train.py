"""Train a generator on photos: a run folder with checkpoints, and weights at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..core.progress import Listener, silent
from ..errors import InputError, UsageError
from .context import cores
from .generators import need_torch
from .initial import InitialGenerator, open_initial
from .limits import check_numbers
from .photo_sets import (
    CHECKPOINT_STEPS,
    FEWEST_PHOTOS,
    background_of,
    check_same_choices,
    fit_of,
    images_seen,
    need_photos,
    note_report,
    note_small_classes,
    note_unused,
    on_bad_of,
    reference_network,
    understood,
    write_reference,
)
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..families import Family, Recipe
    from ..training.data import Report
    from ..training.photos import Fit
    from ..training.processes import World
    from ..training.recorded import Recorded
    from ..training.run import RunSettings
    from ..training.source import Source

    Photos = tuple[Source, Callable[[], Report]]

Value = TypeVar("Value")


@dataclass(frozen=True)
class TrainSettings:
    """Say how to train. None stands for what the resumed run recorded, else for the recipe's value
    or the default.
    """

    resume: bool = False  # continue the run in the folder, bit for bit
    recipe: str | None = None  # one of the family's recipes; None: its first
    images: int | None = None  # images of the whole training
    batch: int | None = None  # images of a training step
    changes: tuple[str, ...] = ()  # changes of the config, such as "steps=8"
    seed: int | None = None  # seed of weights, order and noise; None: 0
    only: str | None = None  # the single objective to train; None: all
    init: str | None = None  # run folder or zoo name with the initial weights
    device: str | None = None  # "cpu" or "cuda"; None: cpu
    compiled: bool = False  # let torch compile the networks
    samples_every: int = 0  # steps between two grids of images; 0 writes none
    keep: int = 2  # number of checkpoints that are kept
    tensorboard: bool = False
    on_bad: str = "skip"  # what an unreadable photo does: skip or fail
    fit: str | None = None  # what becomes of photos that are not square: pad or crop; None: pad
    background: str | None = None  # colour under transparency; None: white
    classes: bool | None = None  # learn the classes that folders and tables name; None: True
    follow_links: bool | None = None  # follow links to photos inside the folder; None: False
    max_megapixels: int | None = None  # largest photo; None: 256 for a JPEG, 64 for others
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # weights file of a feature network that no package brings

    def __post_init__(self) -> None:
        check_numbers(self)
        on_bad_of(self.on_bad)
        fit_of(self.fit)


@dataclass(frozen=True)
class TrainResult:
    """Hold a finished run.

    `rank` is the process's number among those that train together; process 0 writes and reports.
    """

    out: Path
    weights: Path
    images: int
    photos: Report
    rank: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen train --json` prints, without its outer frame."""
        return {
            "out": str(self.out),
            "weights": str(self.weights),
            "images": self.images,
            "photos": self.photos.to_json(),
        }


def train(
    family: str,
    out: str | Path,
    data: str | Path,
    settings: TrainSettings | None = None,
    listen: Listener = silent,
) -> TrainResult:
    """Train a generator of `family` on the photos in `data` and leave the run in `out`.

    Started by torchrun or accelerate, several processes train together. SIGINT and SIGTERM write a
    checkpoint and raise KeyboardInterrupt(signal number). Raises UsageError for settings or a
    folder that cannot be used, InputError for photos that cannot, RuntimeMissing without torch, and
    Busy for a run in use.
    """
    need_torch()
    from ..families import family as find_family
    from ..training.processes import joined
    from ..training.run import InitialWeights, RunOptions, check_free
    from ..training.run import train as train_run

    settings, out, data = settings or TrainSettings(), Path(out), Path(data)
    choices = _Choices.of(settings, out)
    chosen_family = find_family(family)
    recipe_name, recipe = _recorded_recipe(chosen_family, choices, settings, out)
    initial = None if settings.init is None else open_initial(settings.init)
    recipe = _continued(chosen_family, recipe_name, recipe, initial, choices.init)
    with joined(choices.device) as world:
        heard = listen if world.rank == 0 else silent
        if world.rank == 0:  # this process writes the run
            check_free(out, settings.resume)
        threads = choices.threads or max(1, cores() // world.size)
        _check_before(choices, settings, chosen_family, recipe)
        with torch_threads(threads), _photos(data, recipe, choices, world, heard) as photos:
            source, report = photos
            recipe = _for_classes(recipe, source, data)
            if world.rank == 0:
                note_report(report(), listen)
                note_small_classes(source, listen)
            with heard.progress(f"training {family}", recipe.images, "images") as advance:
                weights = train_run(
                    choices.run_settings(family, recipe_name, recipe, initial),
                    source,
                    out,
                    settings.resume,
                    CHECKPOINT_STEPS,
                    images_seen(advance),
                    RunOptions(
                        settings.keep,
                        settings.samples_every,
                        settings.tensorboard,
                        InitialWeights(initial.tensors, initial.path) if initial else None,
                        world,
                        note=heard.note,
                    ),
                )
            if world.rank == 0:
                write_reference(source, out, settings.feature_weights, listen)
            return TrainResult(out, weights, recipe.images, report(), world.rank)


@dataclass(frozen=True)
class _Choices:
    """Hold the settings of a run after each was decided."""

    previous: Recorded
    # None here, and in the two fields below: the family's first recipe and its values
    recipe: str | None
    images: int | None
    batch: int | None
    seed: int
    device: str
    compiled: bool
    only: str | None
    init: str | None  # sha256 of the weights that the resumed run started from
    on_bad: Literal["skip", "fail"]
    fit: Fit
    background: str
    classes: bool
    follow_links: bool
    max_megapixels: int | None
    threads: int  # 0: an equal share of all cores for each process

    @classmethod
    def of(cls, settings: TrainSettings, out: Path) -> _Choices:
        """Decide each setting: as given, else as the resumed run recorded it, else its default."""
        from ..training.recorded import Recorded

        previous = Recorded.of(out) if settings.resume else Recorded()
        if previous.family is not None:
            check_same_choices(settings, previous.choices, out)
        return cls(
            previous,
            _first(settings.recipe, previous.recipe_name),
            _first(settings.images, previous.images),
            _first(settings.batch, previous.batch),
            _first(settings.seed, previous.seed) or 0,
            _given(_first(settings.device, previous.device), "cpu"),
            settings.compiled or bool(previous.compiled),
            _first(settings.only, previous.only),
            previous.init,
            on_bad_of(settings.on_bad),
            fit_of(_first(settings.fit, previous.fit)),
            background_of(_first(settings.background, previous.background)),
            not previous.no_classes if settings.classes is None else settings.classes,
            bool(_first(settings.follow_links, previous.follow_links)),
            _first(settings.max_megapixels, previous.max_megapixels),
            settings.threads or previous.threads or 0,
        )

    def run_settings(
        self, family: str, recipe_name: str, recipe: Recipe, initial: InitialGenerator | None
    ) -> RunSettings:
        """Return the settings that must stay the same when the run resumes."""
        from ..training.run import RunSettings

        return RunSettings(
            family,
            recipe_name,
            recipe,
            self.seed,
            self.device,
            self.compiled,
            self.only,
            initial.sha256 if initial else self.init,
            self.fit,
            self.background,
            self.classes,
            self.follow_links,
            self.max_megapixels,
        )


def _first(setting: Value | None, recorded: Value | None) -> Value | None:
    return recorded if setting is None else setting


def _given(setting: Value | None, default: Value) -> Value:
    """Return the setting, or the default for None; an empty word stays, and is refused where it is
    used.
    """
    return default if setting is None else setting


def recipe_of(
    family: Family, name: str | None, images: int | None, batch: int | None
) -> tuple[str, Recipe]:
    """Return a recipe of the family with its name, the first for None, with images and batch in
    place of its own if they are given.

    Raises UsageError for a name that the family does not have.
    """
    chosen = next(iter(family.recipes)) if name is None else name
    if chosen not in family.recipes:
        raise UsageError(
            "E-RECIPE",
            f"{family.name} has no recipe {chosen!r}; known: {', '.join(family.recipes)}",
        )
    recipe = family.recipes[chosen]()
    return chosen, replace(recipe, images=images or recipe.images, batch=batch or recipe.batch)


def _recorded_recipe(
    family: Family, choices: _Choices, settings: TrainSettings, out: Path
) -> tuple[str, Recipe]:
    """Return the recipe with the config that a resumed run recorded and the changes that are asked
    for now.
    """
    from ..training.checkpoint import parse
    from .config_changes import changed

    name, recipe = recipe_of(family, choices.recipe, choices.images, choices.batch)
    previous = choices.previous
    if previous.family == family.name and previous.config is not None and settings.recipe is None:
        recipe = replace(recipe, config=parse(family.config, previous.config, out / "run.json"))
    return name, replace(recipe, config=changed(family, recipe.config, settings.changes))


def _continued(
    family: Family,
    recipe_name: str,
    recipe: Recipe,
    initial: InitialGenerator | None,
    recorded: str | None,
) -> Recipe:
    """Return the recipe; one that continues a finished generator takes that generator's
    config.

    `recorded` is the sha256 of the weights that a resumed run started from. Raises UsageError if
    such a recipe has neither.
    """
    if not _continues(recipe):
        return recipe
    if initial:
        return replace(recipe, config=recipe.config.onto(initial.config(family)))
    if not recorded:
        raise UsageError(
            "E-INIT",
            f"{recipe_name} trains a finished generator on",
            hint="give a run folder or a zoo name with --init",
        )
    return recipe


def _continues(recipe: Recipe) -> bool:
    from ..families import Continuing

    return isinstance(recipe.config, Continuing) and recipe.config.continues


def _check_before(
    choices: _Choices, settings: TrainSettings, family: Family, recipe: Recipe
) -> None:
    """Raise, before the photos are read, the errors of whatever is missing."""
    from ..training.device import device_of
    from ..training.loop import chosen_objectives
    from ..training.processes import local_rank
    from ..training.record import summary_writer

    device_of(choices.device, local_rank())
    if settings.tensorboard:
        summary_writer()
    reference_network(settings.feature_weights)
    if choices.only is not None:
        chosen_objectives(tuple(family.build(recipe.config).objectives()), choices.only)


@contextmanager
def _photos(
    data: Path, recipe: Recipe, choices: _Choices, world: World, listen: Listener
) -> Iterator[Photos]:
    """Yield the photos, and a function that returns what was found about them so far.

    Raises InputError for too few.
    """
    from ..training.reading import MIN_SIDE, PhotoReading
    from ..training.source import open_source

    c = choices
    reading = PhotoReading(
        c.background, c.fit, c.on_bad, MIN_SIDE, c.classes, c.follow_links, c.max_megapixels
    )
    about = understood(data, reading, listen, least=FEWEST_PHOTOS)
    with ExitStack() as stack:
        with listen.progress("reading photos") as advance:
            source, report = stack.enter_context(
                open_source(
                    about,
                    recipe.config.size,
                    reading,
                    progress=lambda _, __: advance(1),
                    workers=max(1, cores() // world.size),
                    tell=lambda bad: note_unused(bad, listen),
                )
            )
        need_photos(len(source), FEWEST_PHOTOS, data)
        yield source, report


def _for_classes(recipe: Recipe, photos: Source, data: Path) -> Recipe:
    """Return the recipe with as many classes as the photos have.

    Raises InputError if a finished generator that is continued has another number.
    """
    classes = len(photos.classes)
    if _continues(recipe) and recipe.config.classes != classes:
        raise InputError(
            "E-DATA-CLASSES",
            f"the generator has {recipe.config.classes} classes, but the photos have {classes}",
            path=data,
            hint="use the photos on which it was trained",
        )
    return replace(recipe, config=replace(recipe.config, classes=classes))
