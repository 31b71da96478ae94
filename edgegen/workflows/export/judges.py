"""Who judges an export: the reference, and the networks that look at the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError
from ...evidence import reference
from ...evidence.features import FeatureNetwork, feature_network
from ..photo_sets import reference_network

if TYPE_CHECKING:
    from pathlib import Path

    from ...evidence.reference import Features, Reference
    from ...evidence.terms import Terms
    from ..context import Context


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
            hint="runs of `edgegen train` write them at their end; or say --no-reference",
        )
    return reference.read(path)


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
