"""Damage photos as several benchmarks do: blur them, or add noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def levels(values: np.ndarray) -> np.ndarray:
    """Round to the nearest 8-bit levels."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def noisy(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise with a deviation of `sigma` levels to each number."""
    return levels(images + sigma * rng.normal(size=images.shape))


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blur images (n, h, w, 3) uint8 by a Gaussian of `sigma` pixels, each by itself."""
    blur = ImageFilter.GaussianBlur(sigma)
    found = [np.asarray(Image.fromarray(image).filter(blur)) for image in images]
    return np.stack(found) if found else images
