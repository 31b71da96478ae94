"""Which zoo generator a fine-tuning begins with, where none was named: the one whose images are
nearest to the photos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...core.images import to_uint8
from ...core.progress import Listener, silent
from ...core.seeds import PERIODIC_EVALUATION
from ...errors import UsageError
from ..generators import load_generator, torch_pipeline

if TYPE_CHECKING:
    from ...evidence.features import FeatureNetwork
    from ...training.data import Photos

COMPARED = 128  # images of each generator, and photos at most
BATCH = 32


@dataclass(frozen=True)
class NearestBase:
    """The name of the nearest, and the kernel distance (KID) of each to the photos."""

    name: str
    distances: Mapping[str, float]

    def __str__(self) -> str:
        others = ", ".join(
            f"{name} {distance:.3f}"
            for name, distance in sorted(self.distances.items(), key=lambda one: one[1])
            if name != self.name
        )
        return (
            f"base: {self.name}, whose images are nearest to the photos (KID "
            f"{self.distances[self.name]:.3f}; {others})"
        )


def nearest_base(photos: Photos, network: FeatureNetwork, listen: Listener = silent) -> NearestBase:
    """Of the zoo's generators that draw no more pixels a side than `photos` (pixels (n, h, w, c)
    uint8) have; the same for the same photos. UsageError where there is none.

    KID as in Binkowski et al. (2018), over features of COMPARED images and as many photos; those
    are drawn by a fixed seed.
    """
    from ...evidence.distances import kernel_distance
    from ...zoo import entries

    names = [e.name for e in entries() if e.card["config"]["size"] <= photos.pixels.shape[1]]
    if not names:
        raise UsageError(
            "E-SOURCE",
            f"no generator of the zoo draws {photos.pixels.shape[1]} pixels or fewer on each side",
            hint="give a base, or a larger --size",
        )
    chosen = np.random.default_rng(0).permutation(len(photos.pixels))[:COMPARED]
    real = _features(network, photos.pixels[np.sort(chosen)])
    seeds = PERIODIC_EVALUATION.take(COMPARED)
    distances = {}
    with listen.progress("comparing the zoo's generators with the photos", len(names)) as advance:
        for name in names:
            pipeline = torch_pipeline(load_generator(name).generator)
            parts = [to_uint8(pipeline(seeds[k : k + BATCH])) for k in range(0, len(seeds), BATCH)]
            distances[name] = kernel_distance(_features(network, np.concatenate(parts)), real)
            advance(1)
    return NearestBase(min(distances, key=lambda name: (distances[name], name)), distances)


def _features(network: FeatureNetwork, images: np.ndarray) -> np.ndarray:
    return np.concatenate([network(images[k : k + BATCH]) for k in range(0, len(images), BATCH)])
