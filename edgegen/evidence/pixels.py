"""Prepare images as a feature network was trained on them: each network's published preprocessing.
It needs torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# images (n, h, w, 3) uint8, pixels a side -> (n, 3, size, size) float32 in [0, 255]
Prepare = Callable[[np.ndarray, int], Tensor]


def shrunk(images: np.ndarray, size: int) -> Tensor:
    """Resize the whole image, bilinear with antialias."""
    return resize(_channels_first(images), size)


def resize(x: Tensor, size: int) -> Tensor:
    """Resize (n, 3, h, w) to (n, 3, size, size), bilinear with antialias, because a plain bilinear
    shrink aliases; float32.
    """
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def cropped(images: np.ndarray, size: int, margin: float) -> Tensor:
    """Resize the shorter side to `margin` times size, bicubic and in 8 bits, and crop the
    middle.
    """
    short = round(size * margin)

    def one(image: Image.Image) -> np.ndarray:
        scale = short / min(image.size)
        sides = [max(short, int(side * scale)) for side in image.size]
        return np.asarray(image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC))

    return _middles([one(Image.fromarray(image)) for image in images], size)


def as_jpeg(images: np.ndarray, size: int, side: int = 256) -> Tensor:
    """Resize to squares of `side`, bilinear, pass them through a JPEG file and crop the middle, as
    Open NSFW was published with.
    """

    def one(image: Image.Image) -> np.ndarray:
        file = io.BytesIO()
        image.resize((side, side), Image.Resampling.BILINEAR).save(file, format="JPEG")
        with Image.open(io.BytesIO(file.getvalue())) as read:
            return np.asarray(read.convert("RGB"))

    return _middles([one(Image.fromarray(image)) for image in images], size)


def _middles(images: list[np.ndarray], size: int) -> Tensor:
    parts = []
    for image in images:
        top, left = ((side - size) // 2 for side in image.shape[:2])
        parts.append(image[top : top + size, left : left + size])
    return _channels_first(np.stack(parts))


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
