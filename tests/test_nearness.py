"""How near generated images are to photos, on a scale with named ends, and what is said of those
that are far.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toys import shapes

from edgegen.cli.finetune import _next
from edgegen.core.spec import Array
from edgegen.core.verdict import Interval
from edgegen.evidence import nearness
from edgegen.evidence.nearness import (
    ADAPTED,
    BASE,
    BLURRED,
    FAR,
    PHOTOS,
    NearnessScale,
    blurred,
    far_words,
)
from edgegen.evidence.small_sample_distance import directions
from edgegen.workflows.finetune.adapt import FinetuneResult


def features(pixels: np.ndarray) -> Array:
    """Colours of 4 x 4 cells, and how much they vary inside: enough to tell blur from photos."""
    cells = pixels.reshape(len(pixels), 4, 4, 4, 4, 3).astype(np.float32) / 127.5 - 1
    found: Array = np.concatenate(
        [part.reshape(len(pixels), -1) for part in (cells.mean((2, 4)), 4 * cells.std((2, 4)))], 1
    )
    return found


def scale(adapted: np.ndarray, count: int = 200) -> NearnessScale:
    """Of toy photos, half of them held out."""
    photos = shapes(2 * count, 16, seed=5).pixels
    train, held_out = photos[:count], photos[count:]
    noise = np.random.default_rng(1).integers(0, 256, train.shape).astype(np.uint8)
    along = directions(features(train), min(64, len(held_out)))
    sides = {
        PHOTOS: features(train),
        BLURRED: features(blurred(train)),
        BASE: features(noise),
        ADAPTED: features(adapted),
    }
    return NearnessScale.of(sides, features(held_out), along)


def test_the_ends_are_where_they_should_be() -> None:
    others = shapes(150, 16, seed=9).pixels
    found = scale(others)
    kid = {name: distance.value for name, distance in found.kid.items()}
    fd = {name: distance.value for name, distance in found.fd.items()}
    for distance in (kid, fd):
        assert abs(distance[PHOTOS]) < distance[BLURRED] / 3 < distance[BASE] / 3
        assert abs(distance[ADAPTED]) < distance[BLURRED] / 3  # photos themselves
    assert found.images == 150  # of the shortest side, and so of each
    assert {len(distance.made) for distance in found.kid.values()} == {150}
    assert found.limit == pytest.approx(FAR * max(kid[BLURRED], found.kid[PHOTOS].interval().high))
    assert not found.far and far_words(found) == ""


def test_what_is_far_is_called_far_with_what_to_do() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (200, 16, 16, 3)).astype(np.uint8)
    found = scale(noise)
    assert found.far and found.kid[ADAPTED].value > found.limit
    words = far_words(found)
    assert words.startswith("W-TUNE-FAR: these pictures are not your products yet")
    assert "longer --time, more photos or another base" in words
    for side in (PHOTOS, BLURRED):
        assert f"{found.kid[side].value:.2g}" in words
    document = found.to_json()
    assert document["far"] is True and document["far_above"] == found.limit
    assert document["images"] == 200 and document["blur_sigma"] == 1
    assert document[ADAPTED]["KID"]["value"] == found.kid[ADAPTED].value
    assert set(document[BASE]) == {"KID", "FD"}


def test_blurred_photos_are_not_far_and_few_photos_do_not_call_anything_far() -> None:
    """With so few, other photos may be as far by chance."""
    photos = shapes(200, 16, seed=11).pixels
    assert not scale(blurred(photos)).far
    few = scale(photos, count=16)
    assert few.limit >= FAR * few.kid[PHOTOS].interval().high > few.kid[BLURRED].value


def test_a_distance_that_is_none_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scale(shapes(60, 16, seed=9).pixels)
    monkeypatch.setattr(type(found), "limit", float("nan"))
    assert found.far


def test_blur_keeps_colour_and_takes_edges() -> None:
    photos = shapes(8, 16, seed=3).pixels
    soft = blurred(photos)
    assert soft.shape == photos.shape and soft.dtype == np.uint8
    np.testing.assert_allclose(soft.mean(), photos.mean(), atol=2)
    steps = [np.abs(np.diff(part.astype(float), axis=1)).max() for part in (photos, soft)]
    assert steps[1] < 0.6 * steps[0]
    assert nearness.spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert nearness.spaced(3, 9).tolist() == [0, 1, 2]


@pytest.mark.parametrize("far", [True, False])
def test_the_last_line_says_to_export_only_what_is_near(far: bool, tmp_path: Path) -> None:
    last: dict[str, Any] = {"scale": {"far": far}}
    line = _next(FinetuneResult(tmp_path, "fp32", {}, last), tmp_path)
    assert ("edgegen export" in line) is not far
    assert ("these pictures are not your products yet" in line) is far
    assert re.search("longer --time, more photos or another base", line) or not far
    assert f"edgegen generate {tmp_path} -o site.png" in line


@pytest.mark.parametrize(
    ("adapted", "far"),
    [(0.49, True), (0.37, True), (0.33, False), (0.2, False), (float("nan"), True)],
)
def test_furniture_as_blobs_is_far(adapted: float, far: bool) -> None:
    """Kernel distances of docs/finetuning.md: what an evening gave on grey garments, which nobody
    takes for furniture, is far; what an integrator should reach is not.
    """

    def of(value: float) -> Any:
        return SimpleNamespace(value=value, interval=lambda: Interval(value, value, value))

    kid = {PHOTOS: of(0.001), BLURRED: of(0.087), BASE: of(1.19), ADAPTED: of(adapted)}
    assert NearnessScale(512, kid, {}).far == far
