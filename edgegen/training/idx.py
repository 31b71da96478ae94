"""Reader of IDX files, the format of MNIST and Fashion-MNIST (yann.lecun.com/exdb/mnist), which
checks header and length.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..core.reader import opened
from ..errors import InputError

PREFIX = {"train": "train", "test": "t10k"}
MAX_BYTES = 4 << 30
MAX_LABELS = 1_000


def find(root: Path, split: str) -> tuple[Path, Path] | None:
    """Return the image and label file of a split, or None if the folder has no IDX files.

    InputError if one of the two is missing.
    """
    kinds = ("images.idx3", "labels.idx1")
    names = {
        (s, kind): _named(root, f"{prefix}-{kind}")
        for s, prefix in PREFIX.items()
        for kind in kinds
    }
    if not any(names.values()):
        return None
    images, labels = names[split, "images.idx3"], names[split, "labels.idx1"]
    if images is None or labels is None:
        missing = f"{PREFIX[split]}-{'images-idx3' if images is None else 'labels-idx1'}-ubyte"
        raise InputError(
            "E-IDX-MISSING", f"the {split} split needs {missing} or {missing}.gz", path=root
        )
    return images, labels


def is_there(root: Path) -> bool:
    """Return whether a folder holds an IDX file with one of MNIST's names."""
    kinds = ("images.idx3", "labels.idx1")
    return any(_named(root, f"{prefix}-{kind}") for prefix in PREFIX.values() for kind in kinds)


def _named(root: Path, stem: str) -> Path | None:
    for base in (stem.replace(".", "-") + "-ubyte", stem + "-ubyte"):
        for name in (base, base + ".gz"):
            if (root / name).is_file():
                return root / name
    return None


def read(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file as a uint8 array with `dimensions` axes; gzip is recognised by content.

    InputError for a wrong header or length.
    """
    try:
        with opened(path, "E-IDX-READ") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            return _read(gzip.GzipFile(fileobj=raw) if zipped else raw, dimensions, path)
    except EOFError as error:
        raise InputError(
            "E-IDX-LENGTH", "the gzip data ends too early", path=path, hint="fetch the file again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            "E-IDX-GZIP", f"damaged gzip data: {error}", path=path, hint="fetch the file again"
        ) from error
    except OSError as error:
        raise InputError(
            "E-IDX-READ", f"cannot be read: {error.strerror or error}", path=path
        ) from error


def _read(file: BinaryIO | gzip.GzipFile, dimensions: int, path: Path) -> np.ndarray:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
        what = (
            f"not an IDX file of bytes with {dimensions} dimensions: it starts with "
            f"{header[:4].hex(' ') or 'nothing'}"
        )
        raise InputError("E-IDX-HEADER", what, path=path)
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    count = math.prod(shape)
    if not 0 < count <= MAX_BYTES:
        what = (
            f"the header says {' x '.join(map(str, shape))} bytes, which is nothing or more "
            "than 4 GiB"
        )
        raise InputError("E-IDX-HEADER", what, path=path)
    # One byte more than needed reveals a longer file, and makes gzip verify its checksum.
    data = file.read(count + 1)
    if len(data) != count:
        more = "more" if len(data) > count else f"{len(data)}"
        raise InputError(
            "E-IDX-LENGTH", f"the header says {count} bytes of data, the file has {more}", path=path
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures (n, h, w) uint8 and labels (n,) int64.

    InputError if their numbers differ or a label is too large.
    """
    pictures, numbers = read(images, 3), read(labels, 1)
    if len(pictures) != len(numbers):
        raise InputError(
            "E-IDX-LENGTH", f"{len(pictures)} images but {len(numbers)} labels", path=labels
        )
    if numbers.max() >= MAX_LABELS:
        raise InputError(
            "E-IDX-HEADER", f"label {numbers.max()} is not below {MAX_LABELS}", path=labels
        )
    return pictures, numbers.astype(np.int64)


def to_square(pictures: np.ndarray, size: int, crop: bool = False) -> np.ndarray:
    """Fit pictures (n, h, w) into (n, size, size, 3) uint8 on black.

    Pictures whose longer side is between 7/8 of size and size (28 px at 32) are only padded; others
    are resized to 7/8 of size first. crop: cut to the centred square before that.
    """
    if crop:
        side = min(pictures.shape[1:])
        top, left = ((n - side) // 2 for n in pictures.shape[1:])
        pictures = pictures[:, top : top + side, left : left + side]
    side = max(pictures.shape[1:])
    if not side <= size <= side * 8 // 7:
        inner = max(1, size * 7 // 8)
        height, width = (max(1, round(n * inner / side)) for n in pictures.shape[1:])
        pictures = np.stack(
            [
                np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC))
                for p in pictures
            ]
        )
    n, height, width = pictures.shape
    out = np.zeros((n, size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = pictures[..., None]
    return out
