"""Are generated images near enough to a site's photos to be called its products? Distances to
held-out photos on a scale whose ends are named and measured at the same number of images. (numpy
and Pillow only)

A ratio to the base's distance flatters a poor base; an absolute distance means nothing to somebody
who has seen no other. The ends of this scale are things that can be looked at: other photos of the
same set, and those photos blurred. docs/finetuning.md says where FAR comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.files import JsonObject
from ..core.verdict import Interval
from .distances import Floats
from .small_sample_distance import Directions, Distance, frechet, kernel

SIGMA = 1.0  # of the blur, in pixels
FAR = 4.0  # times the blurred photos' kernel distance that is too far
PHOTOS, BLURRED, BASE, ADAPTED = "photos", "blurred", "base", "adapted"


def blurred(pixels: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) uint8, each blurred with SIGMA."""
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(SIGMA)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in pixels])


def spaced(length: int, count: int) -> np.ndarray:
    """At most `count` places out of `length`, evenly: photos are sorted by class."""
    return np.linspace(0, length - 1, min(length, count)).astype(int)


@dataclass(frozen=True)
class NearnessScale:
    """KID and FD to the same held-out photos, by what was held against them; images: of each."""

    images: int
    kid: Mapping[str, Distance]
    fd: Mapping[str, Distance]

    @classmethod
    def of(cls, sides: Mapping[str, Floats], held_out: Floats, along: Directions) -> NearnessScale:
        """sides: features of PHOTOS, BLURRED, BASE and ADAPTED; all are cut to the shortest."""
        count = min(map(len, sides.values()))
        cut = {name: features[:count] for name, features in sides.items()}
        return cls(
            count,
            {name: kernel(features, held_out) for name, features in cut.items()},
            {name: frechet(features, held_out, along) for name, features in cut.items()},
        )

    @property
    def limit(self) -> float:
        """The KID above which images are far: FAR times the blurred photos', or, where few photos
        tell little, FAR times what other photos of the set may well have.
        """
        return FAR * max(self.kid[BLURRED].value, self.kid[PHOTOS].interval().high)

    @property
    def far(self) -> bool:
        """Whether what the adapted generator draws is farther than that."""
        return not self.kid[ADAPTED].value <= self.limit

    def to_json(self) -> JsonObject:
        """As looks.json and `edgegen finetune --json` have it."""
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
    """What is to be said of images that are far; nothing of others."""
    if not scale.far:
        return ""
    kid: dict[str, Interval] = {name: found.interval() for name, found in scale.kid.items()}
    return (
        "W-TUNE-FAR: these pictures are not your products yet: their KID to your held-out photos "
        f"is {kid[ADAPTED].value:.3g}, where other photos of yours have {kid[PHOTOS].value:.2g} "
        f"and the same photos blurred {kid[BLURRED].value:.2g}; far is above {scale.limit:.2g}: "
        "give it a longer --time, more photos or another base"
    )
