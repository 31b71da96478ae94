"""The memory report: planted photos are found, none are found where none are, the attack's interval
holds, NaN never passes.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shapes_of import features, images, noisy, shapes

from edgegen.core.image_hash import differing_bits, looks, signs
from edgegen.core.verdict import Interval
from edgegen.errors import EdgegenError, GateFailed
from edgegen.evidence.memory import Images, Limits, attack, auc, memory, near_copies

TRAIN, HELD, NEW = shapes(150, 1), shapes(50, 2), shapes(200, 3)
PLANTED = [3, 30, 60, 99, 149]


def made(copies: np.ndarray) -> np.ndarray:
    """200 images, of which the first are `copies`."""
    return np.concatenate([copies, NEW[len(copies) :]])


@pytest.mark.parametrize("levels", [0, 2, 6])
def test_planted_photos_are_found(levels: float) -> None:
    found = memory(images(made(noisy(TRAIN[PLANTED], levels))), images(TRAIN), images(HELD))
    assert found.pairs == tuple(enumerate(PLANTED)) and found.near_copies == 5
    with pytest.raises(
        GateFailed,
        match=r"E-MEMORY.*its photos: 5 images are near-copies of training photos, allowed 0",
    ):
        found.check(Limits())
    found.check(Limits(near_copies=5))


def test_new_images_are_not_called_copies() -> None:
    found = memory(images(NEW), images(TRAIN), images(HELD))
    assert found.pairs == () and found.held_out_alike == 0
    assert 0.8 < found.features.ratio < 1.2 and 0.8 < found.pixels.ratio < 1.2
    assert found.membership.low < 0.5 < found.membership.high
    assert found.faults(Limits()) == ()
    found.check(Limits())


def test_images_that_are_all_alike_are_no_memory() -> None:
    mean = np.rint(TRAIN.mean(0, keepdims=True)).astype(np.uint8)
    found = memory(images(noisy(np.repeat(mean, 200, 0), 2)), images(TRAIN), images(HELD))
    assert found.faults(Limits()) == () and found.near_copies == 0


def test_a_generator_that_gives_its_photos_back_has_every_fault() -> None:
    found = memory(images(noisy(TRAIN[np.arange(200) % 150], 2)), images(TRAIN), images(HELD))
    assert found.near_copies == 200 and found.features.ratio < 0.5 and found.membership.low > 0.9
    assert [clause.split()[0] for clause in found.faults(Limits())] == ["200", "images", "training"]
    assert (
        "hint" not in str(found.to_json())
        and json.loads(json.dumps(found.to_json()))["near_copies"] == 200
    )


def test_photos_that_resemble_each_other_are_told_apart_from_memory() -> None:
    found = memory(images(NEW), images(TRAIN), images(np.concatenate([HELD, noisy(TRAIN[:3], 1)])))
    assert found.held_out_alike == 3 and found.near_copies == 0


def test_a_copy_is_found_by_its_features_or_by_its_look() -> None:
    coloured = [k for k in range(150) if np.ptp(TRAIN[k].astype(int), axis=-1).max() > 150][:5]
    grey = np.stack(
        [np.asarray(Image.fromarray(TRAIN[k]).convert("L").convert("RGB")) for k in coloured]
    )
    assert np.diag(looks(grey) @ looks(TRAIN[coloured]).T).max() < 0.99
    assert near_copies(Images(grey, features(TRAIN[coloured])), images(TRAIN)) == tuple(
        enumerate(coloured)
    ), "by features"
    strange = np.eye(5, 96, dtype=np.float32)
    assert near_copies(Images(noisy(TRAIN[coloured], 3), strange), images(TRAIN)) == tuple(
        enumerate(coloured)
    ), "by look"


def test_neither_hash_nor_likeness_alone_makes_a_copy() -> None:
    others = NEW[(differing_bits(signs(NEW, 2), signs(TRAIN, 2)) > 8).all(1)][:20]
    assert near_copies(Images(others, features(TRAIN[: len(others)])), images(TRAIN)) == (), (
        "features alone"
    )
    assert len(others) > 5
    grey = np.full((2, 32, 32, 3), 200, np.uint8)
    assert (
        near_copies(
            Images(grey, np.eye(2, 96, dtype=np.float32)),
            Images(grey[:1], np.eye(96, dtype=np.float32)[2:3]),
        )
        == ()
    )


def test_noise_on_a_flat_ground_does_not_flip_the_hash() -> None:
    other = noisy(TRAIN, 3)
    bits = [
        np.diag(differing_bits(signs(TRAIN, margin), signs(other, margin))).mean()
        for margin in (0, 2)
    ]
    assert bits[1] < 0.7 and bits[1] < bits[0] / 3
    assert np.diag(looks(TRAIN) @ looks(other).T).min() > 0.98
    assert differing_bits(signs(TRAIN), signs(TRAIN)).min() == 0


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
)
def test_auc_is_that_of_mann_and_whitney(near: list[int], far: list[int]) -> None:
    from scipy.stats import mannwhitneyu

    found = auc(near, far)
    wanted = 1 - mannwhitneyu(near, far).statistic / len(near) / len(far)
    assert found.value == pytest.approx(wanted)
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
    other = auc(far, near)
    assert [other.low, other.value, other.high] == pytest.approx(
        [1 - found.high, 1 - found.value, 1 - found.low], abs=1e-9
    )


@pytest.mark.parametrize(
    ("shift", "photos"), [(0.0, 20), (0.0, 100), (0.8, 20), (0.8, 100), (3.0, 20)]
)
def test_the_interval_of_auc_holds(shift: float, photos: int) -> None:
    truth = 0.5 * (1 + math.erf(shift / 2))  # of two normals, one `shift` higher
    rng = np.random.default_rng(photos)
    held = [auc(rng.normal(size=200), rng.normal(size=photos) + shift) for _ in range(300)]
    assert np.mean([found.low <= truth <= found.high for found in held]) >= 0.92


def test_the_attack_tells_who_was_trained_on() -> None:
    rng = np.random.default_rng(0)
    train, other = rng.normal(size=(100, 20)), rng.normal(size=(60, 20))
    assert attack(train, other, train + 0.1 * rng.normal(size=train.shape)).low > 0.9
    blind = attack(train, other, rng.normal(size=(300, 20)))
    assert blind.low < 0.5 < blind.high


def test_limits_refuse_nan_and_nonsense() -> None:
    fine = Interval(0.5, 0.4, 0.6)
    assert Limits().faults(0, 1.0, fine) == ()
    assert len(Limits().faults(0, math.nan, Interval(math.nan, math.nan, math.nan))) == 2
    assert len(Limits().faults(0, math.nan, fine)) == 1
    assert len(Limits().faults(0, 0.6, Interval(0.55, 0.51, 0.6))) == 1
    assert Limits().faults(0, 0.6, fine) == (), (
        "near to training photos and to others alike: blurred, or all the same"
    )
    assert Limits().faults(0, 1.0, Interval(0.65, 0.59, 0.7)) == (), "not surely above the limit"
    for wrong in (
        {"near_copies": -1},
        {"novelty": math.nan},
        {"novelty": 1.0},
        {"membership": 0.4},
        {"membership": math.nan},
    ):
        with pytest.raises(ValueError, match="limits must be"):
            Limits(**wrong)


def test_what_cannot_be_compared_is_refused() -> None:
    bad = features(NEW)
    bad[3, 4] = math.nan
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        Images(NEW, bad)
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        auc([1.0, math.nan], [2.0])
    with pytest.raises(ValueError, match="on both sides, got 0 and 1"):
        auc([], [2.0])
    with pytest.raises(ValueError, match="differ in size"):
        memory(images(shapes(5, 0, 16)), images(TRAIN), images(HELD))
    for pixels, rows in ((NEW[:0], bad[:0]), (NEW[:3], bad[:4]), (NEW / 255, bad)):
        with pytest.raises(ValueError, match="images need uint8"):
            Images(pixels, rows)
    with pytest.raises(ValueError, match="half of the held-out images are training images"):
        memory(images(NEW), images(TRAIN), images(TRAIN[:20]))
