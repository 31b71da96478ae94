"""Draw an adaptation: the same seeds from look to look above real photos, and runs side by side. It
needs numpy and Pillow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.images import grid

# pixels: height of letters, height of a title, gap between images, margin around all
SIZE, HEAD, GAP, MARGIN = 13, 22, 2, 10
WIDE = 64  # least pixels of an image's side; small images are enlarged by a whole number
INK, QUIET = (30, 30, 30), (110, 110, 110)


def timeline(
    looks: Sequence[tuple[str, np.ndarray]], photos: np.ndarray, columns: int = 12, most: int = 10
) -> np.ndarray:
    """Draw one picture (h, w, 3) uint8: a row for each (label, images of the same seeds), and below
    a line two rows of real photos.

    Images and photos are (n, h, w, 3) uint8 of one size; the first `columns` are shown. Of more
    than `most` looks, the first, the last and evenly chosen ones between are shown. Raises
    ValueError if there is nothing to show or sizes differ.
    """
    if not looks or most < 2:
        raise ValueError("a timeline needs a look, and room for the first and the last")
    shown = [
        looks[k]
        for k in sorted({round(k) for k in np.linspace(0, len(looks) - 1, min(most, len(looks)))})
    ]
    check([images for _, images in shown] + [photos])
    rows = [(label, images[:columns]) for label, images in shown]
    real = [photos[k : k + columns] for k in (0, columns) if len(photos) > k]
    left = max(width(label) for label in [*(label for label, _ in shown), "photos"]) + 2 * MARGIN
    lines = [
        enlarged(grid(part, columns, GAP), part.shape[2])
        for part in [*(images for _, images in rows), *real]
    ]
    line = GAP * enlargement(photos.shape[2])
    tall = lines[0].shape[0] + line
    out = canvas(
        left + max(part.shape[1] for part in lines) + MARGIN, 3 * MARGIN + len(lines) * tall
    )
    draw = ImageDraw.Draw(out)
    for k, part in enumerate(lines):
        top = MARGIN + k * tall + (MARGIN if k >= len(rows) else 0)
        out.paste(Image.fromarray(part), (left, top))
        if k <= len(rows):
            label = rows[k][0] if k < len(rows) else "photos"
            draw.text(
                (left - MARGIN, top + (tall - line) / 2),
                label,
                INK,
                ImageFont.load_default(SIZE),
                anchor="rm",
            )
    middle = MARGIN + len(rows) * tall + (MARGIN - line) // 2
    draw.line([(MARGIN, middle), (out.width - MARGIN, middle)], QUIET)
    return np.asarray(out)


def comparison(
    blocks: Mapping[str, np.ndarray], columns: int = 6, count: int = 36, across: int = 4
) -> np.ndarray:
    """Draw one picture (h, w, 3) uint8 with a titled block for each name, of the first `count` of
    its images (n, h, w, 3) uint8.

    `across` blocks stand side by side, further ones below: base, adaptations and photos in the
    given order. Titles that are too long are cut. Raises ValueError if there is nothing to show or
    sizes differ.
    """
    if not blocks:
        raise ValueError("a comparison needs something to compare")
    check(list(blocks.values()))
    pictures = [
        enlarged(grid(images[:count], columns, GAP), images.shape[2]) for images in blocks.values()
    ]
    high, wide = (max(part.shape[axis] for part in pictures) for axis in (0, 1))
    across = min(across, len(pictures))
    space = 2 * MARGIN
    rows = -(-len(pictures) // across)
    out = canvas(across * (wide + space), rows * (HEAD + high + space))
    draw = ImageDraw.Draw(out)
    for k, (name, part) in enumerate(zip(blocks, pictures, strict=True)):
        y, x = divmod(k, across)
        left, top = MARGIN + x * (wide + space), MARGIN + y * (HEAD + high + space)
        draw.text((left, top), cut(name, wide), INK, ImageFont.load_default(SIZE))
        out.paste(Image.fromarray(part), (left, top + HEAD))
    return np.asarray(out)


def check(parts: Sequence[np.ndarray]) -> None:
    """Raise ValueError unless all are uint8 images (n, h, w, 3), n >= 1, of one size."""
    for part in parts:
        if (
            part.dtype != np.uint8
            or part.ndim != 4
            or part.shape[1:] != (*parts[0].shape[1:3], 3)
            or not len(part)
        ):
            raise ValueError(
                f"pictures need uint8 images (n, h, w, 3) of one size, got {part.dtype} "
                f"{part.shape} beside "
                f"{parts[0].shape}"
            )


def canvas(wide: int, high: int) -> Image.Image:
    return Image.new("RGB", (wide, high), "white")


def enlargement(size: int) -> int:
    """Return the factor that enlarges an image of `size` pixels to at least WIDE."""
    return -(-WIDE // size)


def enlarged(pixels: np.ndarray, size: int) -> np.ndarray:
    """Enlarge (h, w, 3) made of images of `size` pixels, so that each pixel becomes a square."""
    times = enlargement(size)
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def width(text: str) -> int:
    """Return the width of the text in pixels."""
    return int(np.ceil(ImageFont.load_default(SIZE).getlength(text)))


def cut(text: str, wide: int) -> str:
    """Return as much of the text as fits into `wide` pixels, with dots for the rest."""
    if width(text) <= wide:
        return text
    while text and width(text + "...") > wide:
        text = text[:-1]
    return text + "..."
