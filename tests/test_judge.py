"""All gates together: what each alone must catch, what must pass, and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgegen.core.conditions import labels
from edgegen.core.files import to_json
from edgegen.core.latent import Latent
from edgegen.core.noise import noise
from edgegen.core.spec import Array, TensorSpec
from edgegen.core.verdict import AtMost, Interval, together
from edgegen.errors import InputError, UsageError
from edgegen.evidence.classes import class_names, groups
from edgegen.evidence.full_side import FullSide, Images
from edgegen.evidence.judge import (
    SHOWN,
    Judgement,
    best_tail_chance,
    counted,
    judge,
    tail_chance,
)
from edgegen.evidence.limits import skewed_interval
from edgegen.evidence.reference import build
from edgegen.evidence.terms import PIXEL_PAIRS, Terms, Trial

LATENT = TensorSpec("z", ("batch", 3, 8, 8))
CLASSES = 5
NAMES = tuple(map(str, range(CLASSES)))
TWO = Latent(LATENT, labels(2))
TERMS = Terms(0.02, 400, 35.0, 0.01)
FIRST = 1000


@dataclass(frozen=True)
class Blocks:
    """A feature network: means of blocks of the picture."""

    name: str = "blocks"
    sha256: str = "34" * 32
    size: int = 8
    dim: int = 12

    def __call__(self, images: np.ndarray) -> Array:
        x = images.reshape(len(images), 2, 4, 2, 4, 3).mean((2, 4)) / 64
        out: Array = x.reshape(len(images), -1).astype(np.float32)
        return out


def full_images(seeds: Sequence[int]) -> Array:
    """Each class has a level of its own."""
    label = np.array([seed % CLASSES for seed in seeds], np.float32)
    level = (label - 2)[:, None, None, None] / 6
    return np.asarray(0.15 * noise(LATENT, seeds, "start") + level, np.float32)


def damaged(hurt: Images, every: int = 1, first: int = 0) -> Images:
    """`hurt` for seeds first, first + every, ... of each run of `every`."""

    def images(seeds: Sequence[int]) -> Array:
        out = full_images(seeds)
        bad = [k for k, seed in enumerate(seeds) if seed % every == first]
        if bad:
            out[bad] = hurt([seeds[k] for k in bad])
        return out

    return images


def noisy(sigma: float) -> Images:
    return lambda seeds: full_images(seeds) + np.float32(sigma) * noise(LATENT, seeds, "own")


def black(seeds: Sequence[int]) -> Array:
    return np.full((len(seeds), 3, 8, 8), -1, np.float32)


def other_class(seeds: Sequence[int]) -> Array:
    return full_images([seed + 1 for seed in seeds])


@pytest.fixture(scope="module")
def full() -> FullSide:
    from edgegen.core.images import to_uint8

    photos = to_uint8(full_images(range(9000, 11_000)) * np.float32(1.3) + np.float32(0.3))
    reference = build(Blocks()(photos), Blocks(), "toy", k=6)
    return FullSide(full_images, Blocks(), reference, FIRST, classes=NAMES)


def said(full: FullSide, other: Images, terms: Terms = TERMS) -> Judgement:
    return judge(full, other, terms, Trial(FIRST, 0.96))


def test_one_image_from_every_seed_is_nothing_to_compare_with(full: FullSide) -> None:
    """All that is measured relative to two seeds then divides by zero, or by rounding noise."""

    def one(seeds: Sequence[int]) -> Array:
        return np.repeat(full_images([FIRST]), len(seeds), axis=0)

    def but_for_a_pixel(seeds: Sequence[int]) -> Array:
        out = one(seeds)
        out[np.array(seeds) % 7 == 3, 0, 0, 0] += np.float32(4 / 255)
        return out

    for reference in (full.reference, None):
        with pytest.raises(InputError, match=r"the same image from \d+ seeds") as caught:
            said(FullSide(one, Blocks(), reference, FIRST), noisy(0.01))
        assert caught.value.code == "E-ONE-IMAGE" and caught.value.exit_code == 4
        varied = FullSide(but_for_a_pixel, Blocks(), reference, FIRST)
        assert said(varied, but_for_a_pixel).failures() == []


def test_equal_and_hardly_different_images_pass_every_gate(full: FullSide) -> None:
    for other in (full_images, noisy(0.004)):
        found = said(full, other)
        assert set(found.states.values()) == {"within"} and found.failures() == []
        assert found.tail.ruined == 0 and found.tail.pairs == found.tail.looks[-1] == 412
        assert found.tail.share.figure.high <= 0.01 and len(found.worst) == SHOWN


@pytest.mark.parametrize(
    "other, gate",
    [
        (damaged(black, 25), "ruined"),
        (damaged(other_class, 20, 3), "ruined"),
        (damaged(noisy(0.08), CLASSES, 2), "classes"),
        (noisy(0.5), "moved"),
        (lambda seeds: full_images(seeds) + np.float32(0.08), "FD"),
        (lambda seeds: full_images(seeds) + np.float32(0.08), "apart"),
        (lambda seeds: full_images(seeds) + np.float32(0.04), "PSNR"),
    ],
)
def test_what_a_gate_guards_fails_there(full: FullSide, other: Images, gate: str) -> None:
    found = said(full, other)
    assert found.states[gate] == "outside" and found.state == "outside", found.states
    assert len(found.failures()) == sum(s != "within" for s in found.states.values())


def test_a_class_that_fails_is_named(full: FullSide) -> None:
    found = said(full, damaged(noisy(0.08), CLASSES, 3), replace(TERMS, psnr=32.0))
    worst = found.worst_class
    assert worst is not None and worst.group.name == "3" and worst.state == "outside"
    assert [one.state for one in found.gates.classes if one.group.name != "3"] == ["within"] * 4
    assert any(text.startswith("class 3 has ") for text in found.failures())


def test_two_classes_that_change_places_are_seen_though_the_set_is_the_same(
    full: FullSide,
) -> None:
    """No distance between sets can see it, and no PSNR is asked for."""
    swap = {1: 2, 2: 1}

    def other(seeds: Sequence[int]) -> Array:
        return full_images([s - s % CLASSES + swap.get(s % CLASSES, s % CLASSES) for s in seeds])

    found = said(full, other, Terms(0.02, 400, 0.0, 1.0, 1.0, 1.0))
    assert found.gates.states["classes"] == "outside"
    assert {
        c.group.name for c in found.gates.classes if c.change and c.change.state == "outside"
    } == {"1", "2"}


def test_the_tail_goes_on_by_pixels_alone(full: FullSide) -> None:
    """No more features than the distance needs; worst pairs first, as they are."""
    asked = 0

    class Counted(Blocks):
        def __call__(self, images: np.ndarray) -> Array:
            nonlocal asked
            asked += len(images)
            return super().__call__(images)

    own = FullSide(full_images, Counted(), full.reference, FIRST, classes=NAMES)

    found = said(own, damaged(black, 10_000, FIRST + 450), replace(TERMS, ruined=0.006))
    assert found.state == "within" and found.comparison.images < found.tail.pairs
    assert asked == 2 * found.comparison.images
    assert found.tail.pairs <= TERMS.pixel_pairs == PIXEL_PAIRS * TERMS.maximum
    first = found.worst[0]
    assert (first.seed, first.is_ruined, int(first.other.max())) == (FIRST + 450, True, 0)
    assert [w.psnr_db for w in found.worst[1:]] == [math.inf] * (SHOWN - 1)


def test_pairs_behind_a_look_may_not_contradict_it() -> None:
    """Those that were made for the features: no look is due at their number."""
    looks = TERMS.tail_looks(0.96)
    first, second = looks.looks[:2]
    assert counted([False] * first, looks, TERMS.ruined).state == "within"
    few = [False] * first + [True] * 2
    assert len(few) < second and counted(few, looks, TERMS.ruined).state == "within"
    many = [False] * first + [True] * 9
    assert len(many) < second and sum(many) > TERMS.ruined * len(many)
    assert counted(many, looks, TERMS.ruined).state != "within"


def test_the_psnr_of_all_pairs_may_not_contradict_that_of_the_first(full: FullSide) -> None:
    found = said(full, noisy(0.004))
    assert found.psnr_of_all_db > TERMS.psnr and found.state == "within"
    less = replace(found, psnr_of_all_db=TERMS.psnr - 0.1)
    assert less.state == "undecided"
    assert less.failures() == [f"PSNR of 34.9 dB over {found.tail.pairs} pairs"]


def test_its_json_is_strict_and_names_each_gate(full: FullSide) -> None:
    found = said(full, noisy(0.004))
    data = json.loads(to_json(found.to_json()))
    assert data["state"] == "within" and data["gates"]["ruined"]["pairs"] == 412
    assert [c["class"] for c in data["gates"]["classes"]] == ["0", "1", "2", "3", "4"]
    assert data["gates"]["psnr"]["low_db"] < data["psnr_db"] < data["gates"]["psnr"]["high_db"]
    equal = json.loads(to_json(said(full, full_images).to_json()))
    assert equal["gates"]["psnr"]["low_db"] is None and equal["worst_pairs"][0]["psnr_db"] is None


def test_none_ruined_of_few_pairs_takes_a_plan_only_where_no_pair_comes_near() -> None:
    """A share at which half of all verdicts fail shows none in 512 pairs as often as not."""

    def chance(
        bad: int, pairs: int, worst_db: float, maximum: int = 4000, limit: float = 0.002
    ) -> float:
        flags = [True] * bad + [False] * (pairs - bad)
        noted: Any = SimpleNamespace(ruined=flags, worst=(SimpleNamespace(psnr_db=worst_db),))
        return tail_chance(noted, Terms(0.02, maximum, ruined=limit), 0.96)

    assert chance(0, 512, 45) > 0.9 > chance(0, 512, 27), "a pair comes near to ruined"
    assert chance(0, 1024, 27) > 0.9, "more sound pairs lift the doubt"
    assert chance(1, 512, 20) < 0.6 < chance(1, 1024, 20) < 0.9 < chance(1, 2048, 20)
    assert chance(2, 2048, 20) < 0.9 and chance(9, 2048, 20) < 0.02
    assert chance(1, 2048, 45) == chance(1, 2048, 20), "a ruined pair may have lost its structure"
    assert chance(9, 500, 20, 500, limit=0.02) < 0.5, "whatever the limit is"
    assert 0 < chance(0, 512, 45, maximum=500) < chance(0, 512, 45), "fewer pairs prove less"
    few = Terms(0.02, 500, ruined=0.002)
    assert chance(0, 512, 45, maximum=500) == best_tail_chance(512, few, 0.96) < 0.9
    assert chance(0, 512, 27, maximum=500) < best_tail_chance(512, few, 0.96)


def test_gates_must_all_pass() -> None:
    assert together(["within", "within"]) == "within"
    assert together(["within", "undecided"]) == "undecided"
    assert together(["undecided", "outside"]) == "outside"
    assert AtMost(Interval(0.1, 0.0, 0.2), 0.2).state == "within"
    assert AtMost(Interval(0.1, 0.0, 0.3), 0.2).state == "undecided"
    assert AtMost(Interval(0.3, 0.25, 0.4), 0.2).state == "outside"
    assert AtMost(Interval(math.nan, 0.0, 0.1), 0.2).state == "outside"


@pytest.mark.parametrize(
    "said", [None, "ab", ["a"], ["a", "b", "c"], ["a", 1], ["a", ""], ["a", "b" * 65], {"a": "b"}]
)
def test_classes_have_names_where_the_data_say_them(said: object) -> None:
    """A manifest comes from outside: what is no list of as many short names is not shown."""
    good = class_names({"data": {"class_names": ["Bag", "Shirt"]}}, TWO, 0)
    assert good == ("Bag", "Shirt") and [g.name for g in groups(good)] == ["Bag", "Shirt"]
    assert class_names({"data": {"class_names": said}}, TWO, 0) == ("0", "1")
    assert class_names({"data": said}, TWO, 0) == class_names({}, TWO, 0) == ("0", "1")
    many = groups([f"kind {k}" for k in range(64)])
    assert (len(many), many[0].name) == (32, "kind 0 to kind 1")


def test_labels_are_grouped_where_there_are_many() -> None:
    assert groups([]) == groups(["all"]) == []
    assert [g.name for g in groups("012")] == ["0", "1", "2"]
    many = groups(list(map(str, range(1000))))
    assert len(many) == 32 and (many[0].name, many[-1].last) == ("0 to 30", 999)
    labels = np.arange(1000)
    assert sum(g.of(labels).astype(int) for g in many).tolist() == [1] * 1000  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_limits_of_rare_damage_hold_where_the_normal_ones_do_not(share: float) -> None:
    """Upper limits at 98.5 %, of the mean of what hits a few: 2,000 draws."""
    rng = np.random.default_rng(0)
    runs, n, level = 2000, 200, 0.97
    skewed = normal = 0
    for _ in range(runs):
        x = np.where(rng.random(n) < share, rng.exponential(1, n), 0.0)
        found = skewed_interval(float(x.mean()), x - x.mean(), level)
        skewed += found.high < share
        normal += float(x.mean() + 2.17 * x.std(ddof=1) / np.sqrt(n)) < share
    assert skewed / runs < 0.03 < normal / runs


def test_limits_without_skewness_are_the_normal_ones() -> None:
    parts = np.array([-1.0, 1.0] * 50)
    found = skewed_interval(3.0, parts, 0.95)
    assert (found.low, found.high) == pytest.approx((3 - 0.19699, 3 + 0.19699), abs=1e-4)
    assert skewed_interval(3.0, 0 * parts) == Interval(3.0, 3.0, 3.0)


@pytest.mark.parametrize("name", ["ruined", "moved", "apart"])
@pytest.mark.parametrize("limit", [0.0, -1.0, 1.5, math.nan])
def test_a_limit_that_is_none_is_refused(name: str, limit: float) -> None:
    changed: Any = {name: limit}
    with pytest.raises(UsageError, match=f"the limit of {name} must be above 0"):
        replace(TERMS, **changed)
