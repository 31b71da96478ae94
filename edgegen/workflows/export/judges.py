"""Choose what judges an export: the reference statistics, and the networks that look at
the images.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.files import put
from ...errors import UsageError
from ...evidence import reference
from ...evidence.features import FeatureNetwork, feature_network
from ..photo_sets import REFERENCE, reference_at, reference_network

if TYPE_CHECKING:
    from pathlib import Path

    from ...evidence.reference import Features, Reference
    from ...evidence.terms import Terms
    from ..context import Context
    from ..generators import LoadedGenerator


def reference_for(path: Path, terms: Terms) -> Reference | None:
    """Read the reference statistics at `path`; None if the terms count no distance to them.

    Raises UsageError if the terms do and there is no such file.
    """
    if not terms.is_distance_counted:
        return None
    if not path.is_file():
        raise UsageError(
            "E-FID-REF",
            "there are no reference statistics to prove the images against",
            path=path,
            hint="add --reference PHOTOS to judge against photos, or --no-reference to go "
            "without; `edgegen train` writes the statistics at the end of a run",
        )
    return reference.read(path)


def with_judges(
    source: LoadedGenerator, photos: Path | None, terms: Terms, folder: Path, context: Context
) -> LoadedGenerator:
    """Return the source to be judged against these photos or this file of statistics, or else
    against its own; the statistics are written into `folder`.

    Raises an error for statistics that cannot judge this generator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if photos is not None:
        size, weights = source.generator.image_shape[1], context.feature_weights
        stored = reference_at(photos, "the site's photos", size, weights, context.listen)
        put(folder / REFERENCE, stored.to_bytes())
        source = replace(source, reference=folder / REFERENCE)
    judge_of(own := reference_for(source.reference, terms), context.feature_weights)
    if own is not None and photos is None:
        shutil.copyfile(source.reference, folder / REFERENCE)
    return source


def adapter_evidence(source: LoadedGenerator) -> dict[str, float]:
    """Return the evidence that an adapter was merged exactly; empty for a generator without one."""
    from ..finetune.merge import proven

    return proven(source.reference.parent, source.generator)


def judge_of(stored: Reference | None, weights: Path | None) -> FeatureNetwork:
    """Return the feature network that made the statistics, or without any, the one in the weight
    file, else the packaged one.

    Raises ReferenceMismatch if `weights` are another network's.
    """
    if stored is None:
        return reference_network(weights)
    network = feature_network(stored.network, weights, stored.size)
    stored.check(network)
    return network


def unnamed_judges(terms: Terms, context: Context) -> list[Features]:
    """Return the networks that judge although no reference names them."""
    first = [] if terms.is_distance_counted else [judge_of(None, context.feature_weights)]
    return [*first, *([context.second_judge] if context.second_judge else [])]
