"""Decide whether generated images are close enough to a user's photos to be called their products.
Distances to held-out photos are put on a scale whose ends have names and are measured at the same
number of images. It needs numpy and Pillow only.

A ratio to the base's distance flatters a poor base; an absolute distance means nothing to somebody
who has seen no other. The ends of this scale can be looked at: other photos of the same set, and
those photos blurred. docs/finetuning.md says where FAR comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.files import JsonObject
from ..core.verdict import Interval
from .distances import Floats
from .small_sample_distance import Directions, Distance, frechet, kernel

SIGMA = 1.0  # standard deviation of the blur in pixels
FAR = 4.0  # this many times the blurred photos' kernel distance is too far
PHOTOS, BLURRED, BASE, ADAPTED = "photos", "blurred", "base", "adapted"


def blurred(pixels: np.ndarray) -> np.ndarray:
    """Blur images (n, h, w, 3) uint8 with SIGMA."""
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(SIGMA)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in pixels])


def spaced(length: int, count: int) -> np.ndarray:
    """Return at most `count` evenly spaced places out of `length`, because photos are sorted by
    class.
    """
    return np.linspace(0, length - 1, min(length, count)).astype(int)


@dataclass(frozen=True)
class NearnessScale:
    """Hold KID and FD to the same held-out photos for each side, computed with `images` of each."""

    images: int
    kid: Mapping[str, Distance]
    fd: Mapping[str, Distance]

    @classmethod
    def of(cls, sides: Mapping[str, Floats], held_out: Floats, along: Directions) -> NearnessScale:
        """Compute the scale; `sides` holds features of PHOTOS, BLURRED, BASE and ADAPTED, all cut
        to the shortest.
        """
        count = min(map(len, sides.values()))
        cut = {name: features[:count] for name, features in sides.items()}
        return cls(
            count,
            {name: kernel(features, held_out) for name, features in cut.items()},
            {name: frechet(features, held_out, along) for name, features in cut.items()},
        )

    @property
    def limit(self) -> float:
        """Return the KID above which images are far: FAR times that of the blurred photos, or, if
        few photos make it uncertain, FAR times the upper end for other photos of the set.
        """
        return FAR * max(self.kid[BLURRED].value, self.kid[PHOTOS].interval().high)

    @property
    def far(self) -> bool:
        """Return whether the images of the adapted generator are farther than the limit."""
        return not self.kid[ADAPTED].value <= self.limit

    def to_json(self) -> JsonObject:
        """Return the form that looks.json and `edgegen finetune --json` have."""
        sides = {
            name: {"KID": vars(self.kid[name].interval()), "FD": vars(self.fd[name].interval())}
            for name in self.kid
        }
        return {
            "images": self.images,
            "blur_sigma": SIGMA,
            **sides,
            "far_above": self.limit,
            "far": self.far,
        }


def far_words(scale: NearnessScale) -> str:
    """Return a warning for images that are far, else ""."""
    if not scale.far:
        return ""
    kid: dict[str, Interval] = {name: found.interval() for name, found in scale.kid.items()}
    return (
        "W-TUNE-FAR: these pictures are not your products yet: their KID to your held-out photos "
        f"is {kid[ADAPTED].value:.3g}, where other photos of yours have {kid[PHOTOS].value:.2g} "
        f"and the same photos blurred {kid[BLURRED].value:.2g}; far is above {scale.limit:.2g}: "
        "give it a longer --time, more photos or another base"
    )
