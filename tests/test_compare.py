"""The paired comparison: each verdict, shared full-precision images, looks that keep the error, and
NaN that never passes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from statistics import NormalDist

import numpy as np
import pytest

from edgegen.core.files import to_json
from edgegen.core.images import to_uint8
from edgegen.core.noise import noise
from edgegen.core.seeds import EVIDENCE
from edgegen.core.spec import Array, TensorSpec
from edgegen.core.verdict import Interval, Verdict
from edgegen.errors import EdgegenError, GateFailed, ReferenceMismatch, UsageError
from edgegen.evidence.compare import Comparison, compare
from edgegen.evidence.distances import Moments, frechet, psnr
from edgegen.evidence.full_side import FullSide
from edgegen.evidence.intervals import distance_change, estimate
from edgegen.evidence.looks import LookSchedule, chance, plan_looks
from edgegen.evidence.reference import Reference, build

LATENT = TensorSpec("z", ("batch", 3, 4, 4))


@dataclass(frozen=True)
class Pixels:
    """A feature network: blocks of the picture, mixed."""

    name: str = "pixels"
    sha256: str = "12" * 32
    size: int = 4
    dim: int = 8

    def __call__(self, images: np.ndarray) -> Array:
        mix = np.random.default_rng(5).normal(size=(48, self.dim)).astype(np.float32)
        return np.tanh(images.reshape(len(images), -1).astype(np.float32) / 64 - 2) @ mix


def generator(
    gain: float = 0.3, shift: float = 0.0, own: float = 0.0
) -> Callable[[Sequence[int]], Array]:
    """Images 4 x 4 from seeds; gain and shift move the whole set, `own` adds noise of its own to
    each image.
    """

    def images(seeds: Sequence[int]) -> Array:
        return (
            gain * noise(LATENT, seeds, "start")
            + np.float32(shift)
            + own * noise(LATENT, seeds, "own")
        )

    return images


@pytest.fixture(scope="module")
def reference() -> Reference:
    return build(Pixels()(to_uint8(generator(0.4, 0.3)(range(2000)))), Pixels(), "toy", k=4)


@pytest.fixture(scope="module")
def full(reference: Reference) -> FullSide:
    return FullSide(generator(), Pixels(), reference)


def test_equal_pipelines_are_within_at_the_first_look(full: FullSide, reference: Reference) -> None:
    found = compare(full, generator(), budget=0.001, when=LookSchedule(100, 1600))
    assert found.verdict.state == "within" and found.verdict.change.value == 0
    assert (found.images, found.looks, found.first_seed) == (100, (100,), EVIDENCE.first)
    assert (
        found.distance_between == pytest.approx(0, abs=1e-6)
        and math.isinf(found.psnr_db)
        and math.isinf(found.psnr_median_db)
    )
    assert (found.features, found.size, found.reference) == ("pixels", 4, "toy")
    assert found.reference_sha256 == reference.sha256


def test_a_small_damage_is_within_a_large_one_outside(full: FullSide) -> None:
    near = compare(full, generator(0.3, 0.0005, 0.004), budget=0.05, when=LookSchedule(100, 1600))
    far = compare(full, generator(0.5, -0.3), budget=0.05, when=LookSchedule(100, 1600))
    better = compare(full, generator(0.33, 0.12), budget=0.05, when=LookSchedule(100, 1600))
    assert near.verdict.state == "within", str(near.verdict)
    assert far.verdict.state == "outside" and far.verdict.change.low > 0.05
    # two-sided: a better distance is a change too
    assert better.verdict.state == "outside" and better.verdict.change.high < -0.05
    assert near.psnr_db > far.psnr_db and near.distance_between < far.distance_between


def test_damage_at_the_edge_is_undecided_and_asks_for_more(full: FullSide) -> None:
    other = generator(0.3, 0.0, 0.03)
    change = compare(full, other, budget=10, when=LookSchedule(1600, 1600)).verdict.change.value
    found = compare(full, other, budget=abs(change), when=LookSchedule(100, 400))
    assert found.verdict.state == "undecided" and found.verdict.more > 0
    assert found.looks == (100, 200, 400) and found.images == 400 and len(found.looks) == 3


def test_the_numbers_are_those_of_the_parts(full: FullSide, reference: Reference) -> None:
    other = generator(0.3, 0.02, 0.05)
    found = compare(full, other, budget=0.0001, when=LookSchedule(100, 100))
    seeds = range(EVIDENCE.first, EVIDENCE.first + 100)
    a, b = (to_uint8(make(seeds)) for make in (generator(), other))
    x, y = (reference.project(Pixels()(images)) for images in (a, b))
    ours, its = estimate(reference.moments, x), estimate(reference.moments, y)
    wanted = Verdict(distance_change(ours, its, found.look_level), 0.0001, 100)
    assert (found.verdict.state, found.verdict.images) == (wanted.state, wanted.images)
    # compare() projects its features in parts, and BLAS sums fewer rows in another order
    for made, parts in (
        (found.verdict.change, wanted.change),
        (found.distance_full, ours.interval()),
        (found.distance_other, its.interval()),
    ):
        assert astuple(made) == pytest.approx(astuple(parts), rel=1e-5, abs=1e-7)
    assert found.distance_between == pytest.approx(frechet(Moments.of(x), Moments.of(y)))
    assert found.psnr_median_db == pytest.approx(np.median(psnr(a, b)))
    mean = np.square((a.astype(float) - b) / 255).mean()
    assert found.psnr_db == pytest.approx(-10 * np.log10(mean))


def test_full_precision_images_are_made_once_and_shared(reference: Reference) -> None:
    asked: list[int] = []

    def counted(seeds: Sequence[int]) -> Array:
        asked.extend(seeds)
        return generator()(seeds)

    full = FullSide(counted, Pixels(), reference, start=77)
    one = compare(full, generator(0.3, 0.0, 0.05), budget=10, when=LookSchedule(150, 150))
    two = compare(full, generator(), budget=1, when=LookSchedule(100, 100))
    compare(full, generator(0.3, 0.0, 0.05), budget=10, when=LookSchedule(200, 200))
    assert asked == list(range(77, 277)) and len(full) == 200
    assert one.first_seed == two.first_seed == 77
    fresh = compare(
        FullSide(generator(), Pixels(), reference, start=77),
        generator(0.3, 0.0, 0.05),
        10,
        LookSchedule.once(150),
    )
    assert fresh == one


def test_progress_counts_pairs(full: FullSide) -> None:
    seen: list[tuple[int, int]] = []
    compare(
        full,
        generator(0.3, 0.0, 0.2),
        10,
        LookSchedule(100, 300),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(64, 300), (100, 300)]


def test_looks_double_and_share_the_error_by_their_pairs() -> None:
    looks = plan_looks(500, 4000, 0.95)
    assert [n for n, _ in looks] == [500, 1000, 2000, 4000]
    assert sum(1 - level for _, level in looks) == pytest.approx(0.05)
    assert 1 - looks[-1][1] == pytest.approx(0.05 * 4000 / 7500)
    assert [n for n, _ in plan_looks(500, 1700, 0.95)] == [500, 1000, 1700]
    assert plan_looks(500, 500, 0.9)[0][1] == pytest.approx(0.9)


@pytest.mark.slow
def test_looking_often_does_not_pass_what_is_at_the_edge(
    full: FullSide, reference: Reference
) -> None:
    """A true change equal to the budget: "within" is then wrong, and may come up in at most 2.5 %
    of runs, looks and all.
    """
    x, y = (
        reference.project(Pixels()(to_uint8(make(range(8000)))))
        for make in (generator(), generator(0.3, 0.0, 0.02))
    )
    moments = reference.moments
    truth = abs(frechet(Moments.of(y), moments) / frechet(Moments.of(x), moments) - 1)
    said = []
    for run in range(300):
        rows = np.random.default_rng(run).integers(8000, size=800)
        for n, level in plan_looks(100, 800, 0.95):
            part = rows[:n]
            state = Verdict(
                distance_change(estimate(moments, x[part]), estimate(moments, y[part]), level),
                truth,
                n,
            ).state
            if state != "undecided":
                break
        said.append(state)
    assert (
        said.count("within") <= 15 and said.count("outside") <= 15 and said.count("undecided") > 250
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_image_that_is_not_finite_fails_the_gate(full: FullSide, bad: float) -> None:
    def broken(seeds: Sequence[int]) -> Array:
        out = generator()(seeds)
        out[-1, 0, 0, 0] = bad
        return out

    with pytest.raises(GateFailed) as caught:
        compare(full, broken, budget=0.02, when=LookSchedule(100, 400))
    assert str(caught.value) == (
        "error[E-NONFINITE] images of seeds 1000000 to 1000063 hold NaN or infinite values"
        " - keep more layers in floating point"
    )
    assert caught.value.exit_code == 3
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        compare(
            FullSide(broken, Pixels(), full.reference),
            generator(),
            budget=0.02,
            when=LookSchedule(100, 400),
        )


def test_features_that_are_not_finite_are_an_error(reference: Reference) -> None:
    class Broken(Pixels):
        def __call__(self, images: np.ndarray) -> Array:
            return super().__call__(images) * np.float32(math.nan)

    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        compare(
            FullSide(generator(), Broken(), reference),
            generator(),
            budget=0.02,
            when=LookSchedule(100, 100),
        )


def test_a_constant_image_is_outside(full: FullSide) -> None:
    found = compare(
        full,
        lambda seeds: np.zeros((len(seeds), 3, 4, 4), np.float32),
        budget=0.02,
        when=LookSchedule(100, 400),
    )
    assert found.verdict.state == "outside" and found.images == 100


def test_what_cannot_be_compared_is_refused(full: FullSide, reference: Reference) -> None:
    with pytest.raises(
        ReferenceMismatch,
        match=r"E-FID-REF.*pixels@121212121212 at 4 px.*pixels@121212121212 at 8 px",
    ):
        FullSide(generator(), Pixels(size=8), reference)
    with pytest.raises(EdgegenError, match=r"E-SHAPE.*\(4, 4, 3\) and \(4, 2, 3\)"):
        compare(
            full,
            lambda seeds: generator()(seeds)[..., :2],
            budget=0.02,
            when=LookSchedule(100, 100),
        )
    with pytest.raises(UsageError, match=r"at least 12 images for 4 projected directions, got 11"):
        compare(full, generator(), budget=0.02, when=LookSchedule(11, 100))
    with pytest.raises(UsageError, match="first <= maximum"):
        compare(full, generator(), budget=0.02, when=LookSchedule(100, 50))
    with pytest.raises(ValueError, match="budget must be a positive fraction"):
        compare(full, generator(), budget=math.nan, when=LookSchedule(100, 100))


def test_a_distance_near_zero_asks_for_more_images_before_it_is_an_error(
    reference: Reference,
) -> None:
    twin = FullSide(generator(0.4, 0.3), Pixels(), reference)  # the reference's own distribution
    with pytest.raises(EdgegenError, match=r"E-FID-SCALE.*over 200 images"):
        compare(twin, generator(0.4, 0.3), budget=0.02, when=LookSchedule(100, 200))


def test_it_is_written_as_strict_json(full: FullSide) -> None:
    found: Comparison = compare(
        full, generator(0.3, 0.0, 0.01), budget=0.5, when=LookSchedule(100, 100)
    )
    data = json.loads(to_json(found.to_json()))
    assert (
        data["verdict"] == found.verdict.state and data["change"]["low"] == found.verdict.change.low
    )
    assert (data["first_seed"], data["last_seed"], data["images"]) == (1_000_000, 1_000_099, 100)
    assert data["psnr_db"] == found.psnr_db and data["looks"] == [100] and data["level"] == 0.95
    equal = compare(full, generator(), budget=0.5, when=LookSchedule(100, 100))
    assert json.loads(to_json(equal.to_json()))["psnr_db"] is None


def test_a_comparison_ends_when_its_caller_has_seen_enough(full: FullSide) -> None:
    other = generator(0.3, 0.0, 0.03)
    edge = abs(compare(full, other, budget=10, when=LookSchedule(100, 100)).verdict.change.value)
    seen: list[float] = []

    def settled(verdict: Verdict, look_level: float) -> bool:
        seen.append(look_level)
        return verdict.images >= 200

    found = compare(full, other, budget=edge, when=LookSchedule(100, 400), settled=settled)
    assert found.looks == (100, 200) and seen[-1] == found.look_level
    assert compare(full, other, budget=edge, when=LookSchedule(100, 400)).looks == (100, 200, 400)


def test_the_chance_of_a_fresh_verdict_is_that_of_simulated_ones() -> None:
    """A flat prior: the true change is what was seen plus an error as large as the one that was
    made.
    """
    budget, images, pairs, look_level = 0.02, 500, 2000, 0.99
    reach = NormalDist().inv_cdf((1 + look_level) / 2)
    rng = np.random.default_rng(0)
    for value, error in ((0.0, 0.004), (0.012, 0.004), (-0.016, 0.005), (0.03, 0.004)):
        seen = Verdict(
            Interval(value, value - reach * error, value + reach * error), budget, images
        )
        later = error * math.sqrt(images / pairs)
        fresh = rng.normal(value, error, 20_000) + rng.normal(0, later, 20_000)
        last = NormalDist().inv_cdf(1 - 0.05 / 4) * later  # half of the 5 %, on two sides
        assert chance(seen, look_level, pairs) == pytest.approx(
            np.mean(np.abs(fresh) + last <= budget), abs=0.01
        )


def test_nothing_is_likely_of_what_is_not_finite_and_all_of_what_is_equal() -> None:
    assert chance(Verdict(Interval(math.nan, math.nan, math.nan), 0.02, 500), 0.99, 4000) == 0
    assert chance(Verdict(Interval(0.0, 0.0, 0.0), 0.02, 500), 0.99, 4000) == 1
    assert chance(Verdict(Interval(0.03, 0.03, 0.03), 0.02, 500), 0.99, 4000) == 0
