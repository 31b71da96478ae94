"""Noise is a function of (seed, stream) alone, and standard normal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.core.conditions import labels
from edgegen.core.latent import Latent
from edgegen.core.noise import noise
from edgegen.core.spec import TensorSpec

X = TensorSpec("x", ("batch", 3, 5, 7))


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6), st.data())
def test_any_split_of_a_batch_gives_the_same_arrays(seeds: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(seeds)))
    whole = noise(X, seeds, "start")
    assert whole.shape == (len(seeds), 3, 5, 7) and whole.dtype == np.float32
    parts = [noise(X, part, "start") for part in (seeds[:cut], seeds[cut:])]
    assert np.array_equal(np.concatenate(parts), whole)
    order = data.draw(st.permutations(range(len(seeds))))
    assert np.array_equal(noise(X, [seeds[k] for k in order], "start"), whole[list(order)])


@pytest.mark.parametrize(
    ("seed", "stream", "wanted"),
    [
        # the stream's key is above 2**63
        (7, "start", [1.1649135, -0.9544921, 0.83191204, -0.61865705]),
        (7, "step3", [-0.27823412, 0.56828713, -2.6300626, -0.33194298]),
    ],
)
def test_known_values(seed: int, stream: str, wanted: list[float]) -> None:
    np.testing.assert_allclose(
        noise(TensorSpec("x", ("batch", 4)), [seed], stream)[0], wanted, rtol=1e-6
    )


def test_values_are_box_muller_over_the_raw_stream() -> None:
    """Written again from the definition, so that the numbers above are not only today's output."""
    import hashlib

    word = int.from_bytes(hashlib.sha256(b"start").digest()[:8], "little")
    raw = np.random.Philox(key=np.array([7, word], np.uint64)).random_raw(4).astype(object)
    u = [((int(r) >> 11) + 0.5) / 2**53 for r in raw]
    radius = np.sqrt(-2 * np.log(u[:2]))
    angle = 2 * np.pi * np.array(u[2:])
    wanted = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    np.testing.assert_allclose(
        noise(TensorSpec("x", ("batch", 4)), [7], "start")[0], wanted, rtol=1e-6
    )


def test_moments_and_distribution() -> None:
    from scipy import stats

    values = noise(TensorSpec("x", ("batch", 1000)), range(300), "start").astype(np.float64)
    flat = values.ravel()
    assert (
        abs(flat.mean()) < 4 / len(flat) ** 0.5 and abs(flat.var() - 1) < 4 * (2 / len(flat)) ** 0.5
    )
    assert abs(stats.skew(flat)) < 0.02 and abs(stats.kurtosis(flat)) < 0.04
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(values[:40]) - np.eye(40)).max() < 0.16  # seeds are independent
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.01


def test_streams_and_neighbouring_seeds_differ() -> None:
    seeds, streams = (0, 1, 2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1), ("start", "step0", "step1", "")
    a = [noise(X, [seed], stream).tobytes() for seed in seeds for stream in streams]
    assert len(set(a)) == len(a)


def test_a_longer_array_is_no_prefix_and_odd_counts_work() -> None:
    for count in (1, 2, 3, 5):
        assert noise(TensorSpec("x", ("batch", count)), [3], "s").shape == (1, count)
    assert noise(X, [], "start").shape == (0, 3, 5, 7)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=r"a seed must be in \[0, 2\*\*63\), got"):
        noise(X, [seed], "start")


def test_a_seed_is_an_integer() -> None:
    with pytest.raises(TypeError):
        noise(X, [1.5], "start")  # type: ignore[list-item]
    assert np.array_equal(noise(X, [np.int64(5)], "start"), noise(X, [5], "start"))  # type: ignore[list-item]


def test_labels_are_balanced_over_any_run_of_seeds_or_as_asked() -> None:
    latent = Latent(X, labels(3))
    assert np.array_equal(latent.start([4, 5]), noise(X, [4, 5], "start"))
    assert latent.condition(range(7, 13))["label"].sum(0).tolist() == [2, 2, 2]
    fixed = latent.condition([1, 2], label=2)["label"]
    assert fixed.dtype == np.float32 and fixed.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert Latent(X).condition([1, 2]) == {}
    with pytest.raises(ValueError, match=r"label must be in \[0, 3\), got 3"):
        latent.condition([0], label=3)
    with pytest.raises(ValueError, match="this generator takes no label, got 0"):
        Latent(X).condition([0], label=0)
