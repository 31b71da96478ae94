"""Who judges an export: the reference, and the networks that look at the images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.files import put
from ...errors import UsageError
from ...evidence import reference
from ...evidence.features import FeatureNetwork, feature_network
from ..photo_sets import REFERENCE, Photos, reference_at, reference_network

if TYPE_CHECKING:
    from pathlib import Path

    from ...evidence.reference import Features, Reference
    from ...evidence.terms import Terms
    from ..context import Context
    from ..generators import LoadedGenerator


def reference_for(path: Path, terms: Terms) -> Reference | None:
    """Of a generator's folder; None where the terms count no distance to it. UsageError where they
    do and there is none.
    """
    if not terms.is_distance_counted:
        return None
    if not path.is_file():
        raise UsageError(
            "E-FID-REF",
            "there are no reference statistics to prove the images against",
            path=path,
            hint="name photos to judge against: --reference PHOTOS, or say --no-reference; a run "
            "of `edgegen train` writes them at its end",
        )
    return reference.read(path)


def judged_against(
    source: LoadedGenerator, photos: Path, folder: Path, context: Context
) -> LoadedGenerator:
    """The source, with these photos, or the statistics in this file, in place of its own; they are
    written into `folder`.
    """
    size = source.generator.image_shape[1]
    stored = reference_at(
        Photos(photos, "the site's photos"), size, context.feature_weights, context.listen
    )
    put(folder / REFERENCE, stored.to_bytes())
    return replace(source, reference=folder / REFERENCE)


def adapter_evidence(source: LoadedGenerator) -> dict[str, float]:
    """That an adapter was merged exactly; empty for a generator without."""
    from ..finetune.merge import proven

    return proven(source.reference.parent, source.generator)


def judge_of(stored: Reference | None, weights: Path | None) -> FeatureNetwork:
    """The feature network that these statistics were made with; ReferenceMismatch if `weights`
    differ. Without any, what the weight file holds, else the packaged one.
    """
    if stored is None:
        return reference_network(weights)
    network = feature_network(stored.network, weights, stored.size)
    stored.check(network)
    return network


def unnamed_judges(terms: Terms, context: Context) -> list[Features]:
    """Networks that judge and that no reference names."""
    first = [] if terms.is_distance_counted else [judge_of(None, context.feature_weights)]
    return [*first, *([context.second_judge] if context.second_judge else [])]
