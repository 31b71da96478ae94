"""Keep the images that an export made, so that a device without torch can show that it makes the
same. It needs numpy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.files import JsonObject
from ..errors import TrustError
from .distances import PairedPsnr, squared_error
from .parity import PIXEL_LIMIT, same_pixels

FILE = "evidence/images.safetensors"
MOST = 1000  # images of a set
FULL = "fp32"  # name of the full-precision images; INT8 images have their runtime's name


@dataclass(frozen=True)
class Kept:
    """Hold the first seed and the sets of images by name, (n, h, w, 3) uint8, all of the same n
    seeds.
    """

    first_seed: int
    sets: Mapping[str, np.ndarray]

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + len(self.sets[FULL]))


@dataclass(frozen=True)
class Alike:
    """Compare one set of images made here with the one made by the export."""

    name: str
    share: float  # share of pixel values within one level of 255
    psnr_db: float  # infinite when no pixel differs
    # for INT8, the PSNR of the export's INT8 images to full precision: a machine that differs by
    # more computes something else; 0 for FP32
    least_db: float
    same: bool

    def to_json(self) -> JsonObject:
        """Return the JSON form, in which a psnr_db of null says that no pixel differs."""
        shown = self.psnr_db if math.isfinite(self.psnr_db) else None
        least = self.least_db if math.isfinite(self.least_db) else None
        return {
            "within_one_level": self.share,
            "psnr_db": shown,
            "least_db": least,
            "same": self.same,
        }


def to_bytes(golden: Kept) -> bytes:
    """Return the bytes of the file."""
    from safetensors.numpy import save

    return save(
        {k: np.ascontiguousarray(v) for k, v in golden.sets.items()},
        {"first_seed": str(golden.first_seed)},
    )


def parsed(data: bytes, path: Path) -> Kept:
    """Read the kept images. Raises TrustError for bytes, read from `path`, that edgegen did not
    write.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        sets = load(data)
        header = data[8 : 8 + int.from_bytes(data[:8], "little")]
        first = int(json.loads(header)["__metadata__"]["first_seed"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise TrustError(
            "E-MANIFEST", f"these are no images of an export: {error}", path=path
        ) from error
    shapes = {a.shape for a in sets.values()}
    if (
        FULL not in sets
        or len(shapes) != 1
        or any(a.dtype != np.uint8 or a.ndim != 4 or not len(a) for a in sets.values())
        or not 0 <= first < 2**62
        or max(map(len, sets.values())) > MOST
    ):
        raise TrustError(
            "E-MANIFEST",
            f"these are no images of an export: {sorted(sets)} of {sorted(shapes)}",
            path=path,
        )
    return Kept(first, sets)


def full(golden: Kept, runtime: str, images: np.ndarray) -> Alike:
    """Compare FP32 images made by a runtime here: they are the same if nearly all pixels lie within
    one level.
    """
    share, psnr = _near(golden.sets[FULL], images)
    return Alike(f"{runtime} FP32", share, psnr, 0.0, share >= PIXEL_LIMIT)


def int8(golden: Kept, runtime: str, images: np.ndarray) -> Alike:
    """Compare INT8 images made here: they are the same if they are closer to those of the export
    than those are to full precision.

    Raises TrustError if the export kept none.
    """
    if runtime not in golden.sets:
        raise TrustError(
            "E-MANIFEST",
            f"no INT8 images of {runtime} were kept; there are {', '.join(golden.sets)}",
        )
    share, psnr = _near(golden.sets[runtime], images)
    least = PairedPsnr.of(squared_error(golden.sets[FULL], golden.sets[runtime])).pooled_db
    return Alike(f"{runtime} INT8", share, psnr, least, share >= PIXEL_LIMIT or psnr >= least)


def _near(golden: np.ndarray, here: np.ndarray) -> tuple[float, float]:
    if golden.shape != here.shape:
        return 0.0, 0.0
    return same_pixels(golden, here), PairedPsnr.of(squared_error(golden, here)).pooled_db
