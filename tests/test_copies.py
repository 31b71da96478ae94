"""Near-copies are found whatever hides them, and all of a group land on one side of a split,
decided by pixels alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from datasets import SAMPLE
from PIL import Image

from edgegen.errors import InputError
from edgegen.training import copies
from edgegen.training.copies import Looks, near_groups, pairs
from edgegen.training.data import Photos, load
from edgegen.training.split import different, near_copies, sides, split


def pictures(n: int, seed: int = 0, side: int = 32) -> np.ndarray:
    """(n, side, side, 3) of smooth noise: no two alike."""
    rough = np.random.default_rng(seed).integers(0, 256, (n, 5, 5, 3), np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC))
            for p in rough
        ]
    )


def unlabelled(pixels: np.ndarray) -> Photos:
    return Photos(pixels, np.zeros(len(pixels), np.int64), ())


def jpeg(pixels: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=75)
    return np.asarray(Image.open(out).convert("RGB"))


def smaller(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    return np.asarray(
        image.resize((22, 22), Image.Resampling.BICUBIC).resize(
            image.size, Image.Resampling.BICUBIC
        )
    )


def darker(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 0.8).astype(np.uint8)


@pytest.mark.parametrize("change", [jpeg, smaller, darker, np.copy], ids=lambda f: f.__name__)
def test_a_changed_copy_is_found_and_nothing_else(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    some = pictures(30)
    every = np.concatenate([some, np.stack([change(p) for p in some[:10]])])
    assert near_groups(every) == [[k, 30 + k] for k in range(10)]
    assert near_copies(unlabelled(some), unlabelled(every[30:])).tolist() == [
        [k, k] for k in range(10)
    ]


@pytest.mark.parametrize("others", [False, True])
def test_the_quick_look_loses_no_pair(others: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against both conditions computed for all pairs at once; many parts, so that their seams
    are crossed.
    """
    monkeypatch.setattr(copies, "_ROWS", 7)
    monkeypatch.setattr(copies, "_PAIRS", 3)
    sample = load(SAMPLE, 32)[0].pixels
    # a slow change
    steps = np.stack([sample[0] * (1 - t) + sample[1] * t for t in np.linspace(0, 0.5, 40)]).astype(
        np.uint8
    )
    every = np.concatenate([steps, sample])
    looks = Looks(every)
    colours = looks.colours.astype(float)
    expected = (looks.signs @ looks.signs.T >= 48) & (np.corrcoef(colours) >= copies.ALIKE)
    found = np.zeros_like(expected)
    for a, b in pairs(looks, Looks(every) if others else looks):
        assert not found[a, b].any(), "each pair is given once"
        found[a, b] = True
    assert (
        found == (expected if others else np.triu(expected, 1))
    ).all() and 200 < expected.sum() < 1600


def test_a_chain_of_copies_is_one_group() -> None:
    """A turntable: each photo is a copy of the next, the last is none of the first."""
    a, b = pictures(2)
    chain = np.stack([a * (1 - t) + b * t for t in np.linspace(0, 1, 60)]).astype(np.uint8)
    assert len(near_copies(unlabelled(chain[:1]), unlabelled(chain[-1:]))) == 0
    mixed = np.concatenate([pictures(3, 1), chain[::-1], pictures(3, 2)])
    assert near_groups(mixed) == [list(range(3, 63))]
    assert different(len(mixed), near_groups(mixed)) == 7


def test_flat_photos_are_near_to_nothing() -> None:
    flat = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (10, 10, 200)])
    assert (
        near_groups(np.concatenate([flat, pictures(3)])) == []
        and near_groups(flat[:1]) == near_groups(flat[:0]) == []
    )


def grouped(n: int, copied: int) -> np.ndarray:
    """n different photos, and of each of the first some a JPEG and a smaller copy: groups of
    three.
    """
    some = pictures(n)
    return np.concatenate(
        [
            some,
            np.stack([jpeg(p) for p in some[:copied]]),
            np.stack([smaller(p) for p in some[:copied]]),
        ]
    )


def test_near_copies_land_on_one_side_and_others_stay_where_they_were() -> None:
    pixels = grouped(300, 60)
    groups = near_groups(pixels)
    assert len(groups) == 60 and sum(map(len, groups)) > 170
    out = sides(unlabelled(pixels), 0.3, groups)
    assert all(out[g].all() or not out[g].any() for g in groups) and 0.2 < out.mean() < 0.4
    train, held = split(unlabelled(pixels), 0.3)
    assert len(near_copies(train, held)) == 0 and (held.pixels == pixels[out]).all()
    alone = sides(unlabelled(pixels[60:300]), 0.3, [])
    assert (alone == out[60:300]).all(), "a photo without near-copies keeps its own side"
    own = sides(unlabelled(pixels), 0.3, [])
    assert any(0 < own[g].sum() < len(g) for g in groups), (
        "on their own they would be on both sides"
    )


def test_the_sides_do_not_depend_on_the_order() -> None:
    pixels = grouped(100, 30)
    out = sides(unlabelled(pixels), 0.3, near_groups(pixels))
    order = np.random.default_rng(1).permutation(len(pixels))
    assert (sides(unlabelled(pixels[order]), 0.3, near_groups(pixels[order])) == out[order]).all()


def test_large_groups_are_held_out_as_often_as_single_photos() -> None:
    """The least digest of ten is small nearly always: were it to decide, 65 % of such groups would
    be held out at 10 %.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 4, 4, 3), np.uint8)
    out = sides(unlabelled(pixels), 0.1, [list(range(k, k + 10)) for k in range(0, 4000, 10)])
    assert 0.06 < out.mean() < 0.14


def test_photos_that_are_all_near_copies_cannot_be_split() -> None:
    one = pictures(1)[0]
    series = np.stack([one, jpeg(one), smaller(one), darker(one)])
    with pytest.raises(
        InputError, match="4 photos, 1 without near-copies, are too few to hold out 50%"
    ) as caught:
        split(unlabelled(series), 0.5)
    assert caught.value.code == "E-DATA-TOO-FEW" and caught.value.exit_code == 4
