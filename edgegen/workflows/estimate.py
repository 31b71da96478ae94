"""How large a training is, before any photo is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.progress import Listener, silent
from .context import cores
from .generators import need_torch
from .limits import check_numbers
from .torch_threads import torch_threads

if TYPE_CHECKING:
    from ..families import Recipe
    from ..training.size_estimate import TrainingSize


@dataclass(frozen=True)
class EstimateSettings:
    """What differs from the recipe, and how to measure."""

    images: int | None = None  # to see in all; None is the recipe's, as below
    batch: int | None = None  # images a step
    changes: tuple[str, ...] = ()  # of the config, such as "steps=8"
    threads: int = 0  # CPU threads; 0 takes all cores

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class SizeEstimate:
    """Parameters, multiply-adds and memory of one recipe's training."""

    family: str
    recipe_name: str
    recipe: Recipe
    size: TrainingSize

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen estimate --json`, but for its frame."""
        return {
            "family": self.family,
            "recipe": self.recipe_name,
            "images": self.recipe.images,
            "batch": self.recipe.batch,
            "precision": self.recipe.precision,
            "parameters": self.size.parameters,
            "trained": self.size.trained,
            "macs": self.size.macs,
            "training_macs": self.size.training_macs,
            "memory_bytes": self.size.memory,
            "peak_bytes": self.size.peak,
            "resident_bytes": self.size.resident,
        }


def estimate_training(
    family: str,
    recipe: str | None = None,
    settings: EstimateSettings | None = None,
    listen: Listener = silent,
) -> SizeEstimate:
    """Measure what training the recipe, the family's first for None, would take; nothing is
    trained. UsageError for a family, recipe or change that there is not.
    """
    need_torch()
    from ..families import family as find_family
    from ..training.device import precision_on
    from ..training.size_estimate import measure
    from .config_changes import changed
    from .train import recipe_of

    settings = settings or EstimateSettings()
    chosen_family = find_family(family)
    name, chosen = recipe_of(chosen_family, recipe, settings.images, settings.batch)
    chosen = replace(
        chosen,
        config=changed(chosen_family, chosen.config, settings.changes),
        precision=precision_on("cpu", chosen.precision),
    )
    with torch_threads(settings.threads or cores()), listen.progress("building the networks"):
        return SizeEstimate(
            family, name, chosen, measure(chosen_family.build(chosen.config), chosen)
        )
