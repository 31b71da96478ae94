"""Photos spoilt as several benchmarks spoil them: blurred, or with noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def levels(values: np.ndarray) -> np.ndarray:
    """The nearest levels of 8 bits."""
    return np.rint(values).clip(0, 255).astype(np.uint8)


def noisy(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Normal noise of that many levels on each number."""
    return levels(images + sigma * rng.normal(size=images.shape))


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Images (n, h, w, 3) uint8 under a Gaussian of that many pixels, each by itself."""
    blur = ImageFilter.GaussianBlur(sigma)
    found = [np.asarray(Image.fromarray(image).filter(blur)) for image in images]
    return np.stack(found) if found else images
