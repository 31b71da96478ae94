"""The novelty report (docs/methods/dkgm.md, D.3 test 11) and sharpness: copies are found, new
images are not called copies, memory is bounded.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edgegen.errors import EdgegenError
from edgegen.evidence.novelty import nearest, novelty
from edgegen.evidence.sharpness import sharpness

RNG = np.random.default_rng(0)
TRAIN, HELD, OTHER = (RNG.standard_normal((n, 12)) for n in (300, 100, 200))


def test_11_new_images_are_as_far_from_training_ones_as_held_out_ones() -> None:
    found = novelty(OTHER, HELD, TRAIN)
    assert found.ratio == pytest.approx(1, abs=0.1) and found.copies < 0.02
    assert found.ratio == found.generated / found.held_out
    assert set(found.to_json()) == {"ratio", "copies", "generated", "held_out"}


def test_11_copies_are_counted() -> None:
    half = np.concatenate([OTHER[:100], TRAIN[:100] + 1e-3])
    found = novelty(half, HELD, TRAIN)
    assert found.copies == pytest.approx(0.5, abs=0.02)
    exact = novelty(TRAIN[:50], HELD, TRAIN)
    assert exact.ratio == 0 and exact.copies == 1


@pytest.mark.slow
def test_neighbours_are_the_direct_ones_however_they_are_chunked() -> None:
    direct = np.linalg.norm(OTHER[:, None] - TRAIN, axis=2).min(1)
    for chunk in (1, 7, 150, 1000):
        np.testing.assert_allclose(nearest(OTHER, TRAIN, chunk), direct, rtol=1e-6)


def test_a_copy_has_distance_zero_even_among_large_numbers() -> None:
    pixels = RNG.integers(0, 256, (50, 3072)).astype(np.uint8)
    assert (nearest(pixels[:10], pixels) == 0).all()
    assert nearest((pixels[:10].astype(np.int16) + 1).astype(np.float32), pixels) == pytest.approx(
        3072**0.5
    )


def test_memory_stays_bounded() -> None:
    rows = np.zeros((4000, 64), np.float32)
    rows[:, 0] = np.arange(4000)
    tracemalloc.start()
    nearest(rows, rows, chunk=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 4 / 20


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="half of the held-out images are training images"):
        novelty(OTHER, TRAIN[:20], TRAIN)
    with pytest.raises(ValueError, match="rows of one width"):
        nearest(OTHER, TRAIN[:, :5])
    with pytest.raises(ValueError, match="rows of one width"):
        nearest(OTHER[:0], TRAIN)
    bad = OTHER.copy()
    bad[3, 4] = np.nan
    with pytest.raises(EdgegenError, match="NaN"):
        novelty(bad, HELD, TRAIN)


def test_blur_takes_sharpness_and_flat_images_have_none() -> None:
    images = RNG.standard_normal((4, 3, 16, 16))
    blurred = (
        images + np.roll(images, 1, 2) + np.roll(images, 1, 3) + np.roll(images, (1, 1), (2, 3))
    ) / 4
    assert sharpness(np.ones((2, 3, 8, 8))) == 0
    assert sharpness(blurred) < 0.5 * sharpness(images)
    assert sharpness(3 * images + 1) == pytest.approx(9 * sharpness(images))
