"""edgegen estimate: show how large a training would be, before any photo is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import output
from .options import Threads
from .training_options import (
    Batch,
    Centroids,
    Changes,
    Family,
    Images,
    RecipeName,
    changes_of,
)

if TYPE_CHECKING:
    from ..workflows.estimate import SizeEstimate


def estimate(
    family: Family,
    recipe: RecipeName = None,
    images: Images = None,
    change: Changes = None,
    centroids: Centroids = None,
    batch: Batch = None,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Show how large a training would be (parameters, multiply-adds, memory) without training
    anything.
    """
    from ..workflows.estimate import EstimateSettings, estimate_training

    settings = EstimateSettings(images, batch, changes_of(change, centroids), threads)
    estimated = estimate_training(family, recipe, settings, output.terminal)
    output.result("estimate", estimated.to_json())
    _show(estimated)


def _show(estimated: SizeEstimate) -> None:
    from ..training.size_estimate import TINY

    size, recipe = estimated.size, estimated.recipe
    output.table(
        ["network", "parameters"], [[n, f"{count:,}"] for n, count in size.parameters.items()]
    )
    print()
    output.table(
        ["graph", "MACs, one image"], [[n, f"{count:,}"] for n, count in size.macs.items()]
    )
    print()
    rows = [[n, f"{size.trained[n]:,}", f"{count:,}"] for n, count in size.training_macs.items()]
    output.table(["objective", "trained parameters", "MACs of its loss, one image"], rows)
    print()
    memory = {
        **size.memory,
        "estimated peak": size.peak,
        "held on a CPU, up to": size.resident,
    }
    output.table(["memory", "MB"], [[n, f"{count / 1e6:.1f}"] for n, count in memory.items()])
    print(
        f"{estimated.family} {estimated.recipe_name}: {recipe.images:,} images in batches of "
        f"{recipe.batch}, {recipe.precision}. The memory does not include the photos and torch "
        f"itself; that of activations was measured on {TINY[0]} and {TINY[1]} images. Nothing was "
        "trained."
    )
