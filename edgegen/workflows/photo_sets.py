"""What the verbs that train share: progress in images, photos that are not used, statistics that
exports are proven against.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import output

if TYPE_CHECKING:
    from ..training.data import Report
    from ..training.folder import Bad
    from ..training.loop import Trainer
    from ..training.source import Source

EVERY = 500  # steps between checkpoints
REFERENCE_IMAGES = 10_000  # at most; the distance needs no more
# photos: two images for each direction of the reference, and more than one of these
FEWEST = 8
DIRECTIONS = 128  # of the projected reference, when there are photos enough for them


def counted(advance: Callable[[int], None]) -> Callable[[Trainer, object], None]:
    """Progress in images seen; a resumed run begins with those it has."""
    seen = 0

    def after(trainer: Trainer, _: object) -> None:
        nonlocal seen
        advance(trainer.images - seen)
        seen = trainer.images

    return after


def not_used(bad: Bad) -> None:
    """A photo that is not used, by name: on stderr, since it is no result."""
    from ..training.data import shown

    output.note(f"not used: {shown(bad.name)}: {bad.code} {bad.reason}")


def tell_bad(report: Report) -> None:
    """Every photo that is not used, and what was changed or is odd, by count and first name."""
    from ..training.data import shown

    for bad in report.bad:
        not_used(bad)
    for code, names in report.warnings.items():
        output.note(f"{code}: {len(names)} (such as {shown(names[0])})")


def write_reference(photos: Source, path: Path, weights: Path | None, advance: Any) -> None:
    """Statistics that exports of this run are proven against."""
    import numpy as np

    from ..evidence import reference
    from ..evidence.features import feature_network
    from ..training.source import sample

    network = feature_network("inception-v3" if weights else "efficientnet-lite0", weights)
    pixels = sample(photos, REFERENCE_IMAGES)
    parts = []
    for start in range(0, len(pixels), 64):
        parts.append(network(pixels[start : start + 64]))
        advance(len(parts[-1]))
    directions = min(DIRECTIONS, len(pixels) // 4)
    reference.build(np.concatenate(parts), network, "training photos", directions).write(path)
