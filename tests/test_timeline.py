"""The pictures: every image is where it belongs, pixel for pixel, labels are drawn, curves show
what is in the looks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes_of import shapes

from edgegen.core.verdict import Interval
from edgegen.evidence.curves import BAND, BEST, LIMIT, LINE, WIDTH, curves, ticks
from edgegen.evidence.memory import Limits
from edgegen.evidence.stopping import Look
from edgegen.evidence.timeline import comparison, cut, timeline, width


def places(picture: np.ndarray, image: np.ndarray, times: int) -> list[tuple[int, int]]:
    """Where (row, column) the enlarged image stands in the picture."""
    code = np.array([1 << 16, 1 << 8, 1])
    block, whole = image.repeat(times, 0).repeat(times, 1) @ code, picture @ code
    high, wide = (whole.shape[axis] - block.shape[axis] + 1 for axis in (0, 1))
    fits = np.ones((high, wide), bool)
    for y, x in np.random.default_rng(0).integers(0, len(block), (60, 2)):
        fits &= whole[y : y + high, x : x + wide] == block[y, x]
    return [
        (int(y), int(x))
        for y, x in np.argwhere(fits)
        if (whole[y : y + len(block), x : x + block.shape[1]] == block).all()
    ]


def test_rows_are_looks_columns_are_seeds_and_photos_come_last() -> None:
    looks = [(f"step {k}", shapes(5, k)) for k in range(3)]
    photos = shapes(9, 9)
    picture = timeline(looks, photos, columns=4)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    at = [[places(picture, image, 2)[0] for image in part[:4]] for _, part in looks]
    at += [[places(picture, image, 2)[0] for image in photos[k : k + 4]] for k in (0, 4)]
    assert np.array(at).shape == (5, 4, 2)
    rows, columns = np.array(at)[:, :, 0], np.array(at)[:, :, 1]
    assert (
        (rows == rows[:, :1]).all()
        and (np.diff(rows[:, 0]) >= 64).all()
        and (columns == columns[:1]).all()
    )
    assert (np.diff(columns[0]) == 68).all() and rows[3, 0] - rows[2, 0] > rows[1, 0] - rows[
        0, 0
    ], "photos stand apart"
    assert places(picture, looks[0][1][4], 2) == places(picture, photos[8], 2) == [], (
        "no more than the columns"
    )
    for row in rows[:4, 0]:
        assert (picture[row : row + 64, : columns[0, 0]] < 100).any(), "a label"
    assert (picture[rows[4, 0] : rows[4, 0] + 64, : columns[0, 0]] == 255).all()


def test_of_many_looks_the_first_and_the_last_stay() -> None:
    looks = [(f"step {k}", shapes(2, k)) for k in range(9)]
    picture = timeline(looks, shapes(2, 99), columns=2, most=3)
    assert [bool(places(picture, images[0], 2)) for _, images in looks] == [
        k in (0, 4, 8) for k in range(9)
    ]


def test_large_images_are_not_enlarged() -> None:
    photos = shapes(2, 0, 96)
    assert places(timeline([("a", photos)], photos[::-1], columns=2), photos[0], 1) != []


def test_blocks_stand_in_order_with_titles() -> None:
    blocks = {
        "base": shapes(9, 0),
        "runs/a": shapes(9, 1),
        "a title that is much too long for its block " * 3: shapes(9, 2),
        "photos": shapes(7, 3),
    }
    picture = comparison(blocks, columns=3, count=6, across=2)
    at = [places(picture, images[0], 2)[0] for images in blocks.values()]
    assert (
        at[0][0] == at[1][0] < at[2][0] == at[3][0] and at[0][1] == at[2][1] < at[1][1] == at[3][1]
    )
    assert all(places(picture, images[5], 2) for images in blocks.values())
    assert places(picture, blocks["base"][6], 2) == []
    for y, x in at:
        assert (picture[y - 20 : y - 4, x : x + 30] < 100).any(), "a title"
    assert (picture[:, -8:] == 255).all() and (picture[-8:] == 255).all()


def test_titles_are_cut_where_they_end() -> None:
    assert cut("short", 200) == "short"
    long = cut("w" * 100, 200)
    assert long.endswith("w...") and width(long) <= 200 < width(long[:-3] + "w...")


def looks(copies: tuple[int, ...] = (0, 0, 0), novelty: float = 1.0) -> list[Look]:
    return [
        Look(100 * k, Interval(v, v - 0.05, v + 0.05), c, novelty, Interval(0.5, 0.45, 0.55))
        for k, (v, c) in enumerate(zip((0.6, 0.3, 0.2), copies, strict=True))
    ]


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    """Pixels of about this colour."""
    return int((np.abs(picture.astype(int) - color) <= 40).all(-1).sum())


def test_curves_show_the_looks() -> None:
    plain = curves(looks(), Limits())
    assert plain.shape[1] == WIDTH and plain.dtype == np.uint8
    assert count(plain, LINE) > 500 and count(plain, BAND) > 5000 and count(plain, BEST) == 0
    np.testing.assert_array_equal(plain, curves(looks(), Limits()))
    assert count(curves(looks(), Limits(), best=200), BEST) > 300
    assert count(curves(looks((0, 0, 5)), Limits()), LIMIT) > count(plain, LIMIT) + 300, (
        "near-copies stand out"
    )
    changed = np.flatnonzero((curves(looks(novelty=0.8), Limits()) != plain).any((1, 2)))
    assert changed.min() > 160 and changed.max() < 340, "the second panel alone"


def test_one_look_is_drawn_too() -> None:
    assert count(curves(looks()[:1], Limits(), best=0), LINE) > 20


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_few_and_inside(low: float, extent: float, most: int) -> None:
    high = low + extent
    found = ticks(low, high, most)
    assert 0 < len(found) <= most + 1
    assert all(low - 1e-6 * extent <= tick <= high + 1e-6 * extent for tick in found)
    whole = ticks(low, high, most, whole=True)
    assert all(tick == round(tick) for tick in whole)


def test_pictures_that_cannot_be_made_are_refused() -> None:
    some = shapes(2, 0)
    calls: list[Callable[[], object]] = [
        lambda: timeline([], some),
        lambda: timeline([("a", some)], some, most=1),
        lambda: curves([], Limits()),
        lambda: comparison({}),
    ]
    for wrong in calls:
        with pytest.raises(ValueError, match=r"needs? "):
            wrong()
    for other in (shapes(2, 0, 16), some[:0], some / 255, some[0]):
        with pytest.raises(ValueError, match="of one size"):
            timeline([("a", some)], other)
        with pytest.raises(ValueError, match="of one size"):
            comparison({"a": some, "b": other})
