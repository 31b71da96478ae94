"""Estimate the size of a training before any photo is read."""

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
    """Say what differs from the recipe, and how to measure."""

    images: int | None = None  # images of the whole training; None: as many as the recipe says
    batch: int | None = None  # images of a training step; None: as many as the recipe says
    changes: tuple[str, ...] = ()  # changes of the config, such as "steps=8"
    threads: int = 0  # CPU threads; 0 takes all cores

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class SizeEstimate:
    """Hold the parameters, multiply-adds and memory of one recipe's training."""

    family: str
    recipe_name: str
    recipe: Recipe
    size: TrainingSize

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen estimate --json` prints, without its outer frame."""
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
    """Measure what training the recipe would take, without training; None takes the family's first
    recipe.

    Raises UsageError for a family, recipe or change that does not exist.
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
