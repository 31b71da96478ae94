"""Regions of an image: grids, masks, and the sentences for what is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgegen.errors import EdgegenError
from edgegen.explain.regions import grid, name_of, regions, set_of


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"),
    [(3, 3, 32, 32), (2, 5, 16, 16), (6, 6, 256, 256), (1, 2, 8, 9)],
)
def test_a_grid_covers_every_pixel_once_in_cells_as_equal_as_can_be(
    rows: int, columns: int, height: int, width: int
) -> None:
    found = grid(rows, columns, height, width)
    assert found.count == rows * columns and found.masks.sum() == height * width
    per_row = found.masks.any(2).sum(1)
    assert per_row.max() - per_row.min() <= 1 and found.labels[0, -1] == columns - 1


def test_a_grid_of_3_of_32_pixels_has_cells_of_11_10_and_11() -> None:
    assert grid(3, 3, 32, 32).masks.any(2).sum(1).tolist() == [11] * 3 + [10] * 3 + [11] * 3


def test_sets_of_regions_are_written_from_1_on() -> None:
    assert (
        name_of(0b10010) == "2,5" and set_of("2,5", 9) == 0b10010 and set_of(" 5 , 2", 9) == 0b10010
    )


@pytest.mark.parametrize("text", ["", "0", "10", "2,2", "2,x", "2,,3", "-1", "2.0"])
def test_other_words_are_no_regions(text: str) -> None:
    with pytest.raises(EdgegenError, match=r"E-REGIONS.*from 1 to 9"):
        set_of(text, 9)


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_a_mask_has_one_region_a_colour_and_none_where_black(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3))
    pixels[2:5, 1:3] = (255, 0, 0)
    pixels[5:, 4:] = (0, 0, 9)
    found = regions(str(saved(tmp_path / "mask.png", pixels)), 8, 8)
    assert found.count == 2
    assert found.masks.sum((1, 2)).tolist() == [6, 12] and (found.labels == -1).sum() == 46
    assert found.mask(0b11).sum() == 18 and found.mask(0b10)[5, 4]


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_masks_too(mode: str, tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint8)
    values[:, 4:], values[6:] = 1, 2
    image = Image.fromarray(values, mode="L")
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "mask.png")
    assert regions(str(tmp_path / "mask.png"), 8, 8).masks.sum((1, 2)).tolist() == [24, 16]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0x3", "a grid of 0x3 does not fit"),
        ("9x3", "a grid of 9x3 does not fit an image of 8 x 8"),
        ("1x1", "cells between 2 and"),
        ("8x8", "cells between 2 and 62"),
        ("3 by 3", "a grid such as 3x3 or a mask PNG, and there is no such file"),
    ],
)
def test_bad_words(text: str, sentence: str) -> None:
    with pytest.raises(EdgegenError, match=rf"E-REGIONS.*{sentence}"):
        regions(text, 8, 8)


def test_bad_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = {
        "the mask is 9 x 8 pixels, the images are 8 x 8": np.zeros((8, 9, 3)),
        "the mask has 1 colours besides black, it needs 2 to 62": np.ones((8, 8, 3)),
        "the mask has 6[34] colours besides black.*without soft edges": rng.integers(
            1, 255, (8, 8, 3)
        ),
    }
    for k, (sentence, pixels) in enumerate(cases.items()):
        with pytest.raises(EdgegenError, match=sentence):
            regions(str(saved(tmp_path / f"{k}.png", pixels)), 8, 8)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(EdgegenError, match="no PNG that can be read"):
        regions(str(tmp_path / "text.png"), 8, 8)
