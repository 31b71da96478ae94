"""Photos blurred as a camera out of focus would, which several benchmarks hold images to."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Images (n, h, w, 3) uint8 under a Gaussian of that many pixels, each by itself."""
    blur = ImageFilter.GaussianBlur(sigma)
    found = [np.asarray(Image.fromarray(image).filter(blur)) for image in images]
    return np.stack(found) if found else images
