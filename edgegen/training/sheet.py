"""A contact sheet of photos as a model will see them, by class, without file names and metadata."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ..core.reader import opened
from ..errors import escaped
from .data import Photos

WIDTH = 1592  # most pixels of the sheet's width
NARROW = 640  # least pixels of its width, so that the first line fits
SIDE = 64  # pixels up to which smaller thumbnails are enlarged, by a whole number
GAP, FRAME = 8, 2  # pixels between thumbnails, and of the frame around some
TITLE, HEAD = 32, 30  # height of the first line and of a class's heading
MOST = 1_000  # most thumbnails
AREA = 24_000_000  # most pixels of all thumbnails together
CLASSES = 100  # most classes with a heading of their own
LETTERS = 200  # most characters of a line
SOFTWARE = "edgegen photos check"
BEGIN = 256  # first bytes of the file, which name that software
PAPER, INK, HELD, NEAR = "#e4e4e4", "#202020", "#1565c0", "#e65100"


def sheet(photos: Photos, held: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Draw the contact sheet, (h, w, 3) uint8.

    held: (n,) bool, photos that get a frame; groups: indices of near-copies, which are underlined
    and side by side in their class. If there are too many photos, evenly spaced ones of each class
    are shown, and of more than CLASSES classes the first.
    """
    size = photos.shape[0]
    scale = max(1, SIDE // size)
    cell = size * scale + GAP
    first = {k: group[0] for group in groups for k in group}
    sections = list(_sections(photos, held, cell, first))
    columns = max(
        1, NARROW // cell, min(WIDTH // cell, max(len(indices) for _, indices in sections))
    )
    rows = sum(-(-len(indices) // columns) for _, indices in sections)
    image = Image.new(
        "RGB", (columns * cell + GAP, TITLE + len(sections) * HEAD + rows * cell + GAP), PAPER
    )
    draw = ImageDraw.Draw(image)
    _legend(draw, photos, scale, held, first)
    y = TITLE
    for title, indices in sections:
        _text(draw, (GAP, y + 8), title, image.width - 2 * GAP)
        y += HEAD
        for k, index in enumerate(indices):
            x, top = GAP + k % columns * cell, y + k // columns * cell
            _thumbnail(
                image,
                draw,
                photos.pixels[index],
                (x, top),
                scale,
                bool(held[index]),
                index in first,
            )
        y += -(-len(indices) // columns) * cell
    return np.asarray(image)


def _sections(
    photos: Photos, held: np.ndarray, cell: int, first: dict[int, int]
) -> Iterator[tuple[str, list[int]]]:
    """Yield the heading and the indices of the shown photos of each class."""
    names = [f"{escaped(name)}: " for name in photos.classes] or [""]
    room = max(1, min(MOST, AREA // cell**2) // min(len(names), CLASSES))
    everywhere = len(photos) <= min(MOST, AREA // cell**2)
    for number, name in enumerate(names[:CLASSES]):
        every = np.flatnonzero(photos.labels == number)
        few = (
            every
            if everywhere
            else every[
                np.unique(np.linspace(0, len(every) - 1, min(room, len(every))).astype(np.int64))
            ]
        )
        of = (
            f"{len(few)} of {len(every):,} photos"
            if len(few) < len(every)
            else f"{len(every)} photos"
        )
        yield (
            f"{name}{of}, {held[every].sum():,} held out",
            sorted(few.tolist(), key=lambda k: (first.get(k, k), k)),
        )
    if len(names) > CLASSES:
        yield f"and {len(names) - CLASSES} more classes", []


def _legend(
    draw: ImageDraw.ImageDraw, photos: Photos, scale: int, held: np.ndarray, first: dict[int, int]
) -> None:
    """Draw the first line, which says what the sheet shows and what its marks mean."""
    larger = f", shown {scale} x as large" if scale > 1 else ""
    x = (
        GAP
        + _text(
            draw,
            (GAP, 9),
            f"{len(photos):,} photos at {photos.shape[0]} x {photos.shape[1]} pixels{larger}",
            2000,
        )
        + 24
    )
    for colour, what in (
        (HELD, f"held out: {held.sum():,}"),
        (NEAR, f"near-copies of each other: {len(first):,}"),
    ):
        if colour == HELD:
            draw.rectangle((x, 10, x + 11, 21), outline=colour, width=FRAME)
        else:
            draw.rectangle((x, 18, x + 11, 21), fill=colour)
        x += 18 + _text(draw, (x + 18, 9), what, 2000) + 24


def _thumbnail(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    pixels: np.ndarray,
    at: tuple[int, int],
    scale: int,
    held: bool,
    near: bool,
) -> None:
    """Draw a thumbnail with its marks, which lie in the gap and cover nothing of the photo."""
    side, (x, y) = len(pixels) * scale, at
    if held:
        draw.rectangle(
            (x - FRAME - 1, y - FRAME - 1, x + side + FRAME, y + side + FRAME),
            outline=HELD,
            width=FRAME,
        )
    if near:
        draw.rectangle((x, y + side + 1, x + side - 1, y + side + 3), fill=NEAR)
    image.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), at)


def to_png(pixels: np.ndarray) -> bytes:
    """Return the sheet as a PNG that is marked as a sheet, so that the next one may replace it."""
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", SOFTWARE)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png", pnginfo=about)
    return out.getvalue()


def is_sheet(path: Path) -> bool:
    """Return whether the file is a contact sheet made by edgegen."""
    if path.is_symlink() or not path.is_file():
        return False
    with opened(path) as file:
        return b"tEXtSoftware\0" + SOFTWARE.encode() in file.read(BEGIN)


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int) -> int:
    """Draw a text, shortened if it does not fit, and return its width in pixels."""
    font = ImageFont.load_default(13)
    shown = text[:LETTERS]
    while shown and draw.textlength(shown, font) > width:
        shown = shown[:-1]
    shown = shown if shown == text else shown[:-3] + "..."
    draw.text(at, shown, INK, font)
    return int(draw.textlength(shown, font))
