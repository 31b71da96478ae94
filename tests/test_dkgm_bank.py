"""dkgm's bank: which vectors it keeps, that centroids are none of them, and that picks are as
frequent as what they stand for.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgegen.errors import InputError
from edgegen.families.dkgm.bank import FEWEST, Bank, kmeans


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Bytes (n, 1, 2, 2) in two well separated classes, and their labels."""
    labels = torch.eye(2)[torch.arange(count) % 2]
    return (
        torch.randint(0, 90, (count, 1, 2, 2), generator=rng(seed))
        + 150 * labels[:, :1, None, None]
    ).to(torch.uint8), labels


def test_exemplars_are_training_vectors_of_their_class() -> None:
    vectors, labels = photos(60)
    bank = Bank((1, 2, 2), 2, 10)
    bank.fill(vectors, labels, False, rng())
    for group in range(2):
        own = {tuple(v.flatten().tolist()) for v in vectors[labels[:, group] == 1]}
        kept = [tuple(v.flatten().tolist()) for v in bank.values[group]]
        assert len(set(kept)) == 10 and set(kept) <= own
    assert (bank.counts == 1).all()
    torch.testing.assert_close(bank.decoded(bank.values[0]), bank.values[0].float() / 127.5 - 1)


def test_centroids_are_no_training_vectors_and_each_is_of_several() -> None:
    vectors, labels = photos(200)
    vectors[0] = vectors[2] = vectors[4] = 255  # a photo that is there three times counts once
    bank = Bank((1, 2, 2), 2, 12)
    bank.fill(vectors, labels, True, rng())
    known = {tuple(v.flatten().tolist()) for v in vectors}
    for group in range(2):
        used = bank.counts[group] > 0
        assert used.sum() >= 4 and (bank.counts[group][used] >= FEWEST).all()
        assert not {tuple(v.flatten().tolist()) for v in bank.values[group][used]} & known
        assert bank.counts[group].sum() == len(torch.unique(vectors[labels[:, group] == 1], dim=0))


def test_kmeans_finds_groups_and_is_a_function_of_its_generator() -> None:
    centres = torch.tensor([[0.0, 0], [50, 0], [0, 50]])
    points = (centres[:, None] + torch.randn(3, 40, 2, generator=rng())).flatten(0, 1)
    means, members = kmeans(points, 3, rng(1))
    assert members.tolist() == [40, 40, 40]
    assert torch.cdist(means, centres).amin(0).max() < 1
    again, _ = kmeans(points, 3, rng(1))
    assert torch.equal(means, again)


def test_a_vector_far_from_all_others_is_merged_not_kept() -> None:
    points = torch.cat([torch.randn(30, 2, generator=rng()), torch.tensor([[1000.0, 1000.0]])])
    means, members = kmeans(points, 4, rng())
    assert (members >= FEWEST).all() and torch.cdist(means, points[-1:]).min() > 100


def test_picks_are_as_frequent_as_what_they_stand_for() -> None:
    bank = Bank((1, 1, 1), 2, 4)
    bank.values[:, :, 0] = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    bank.counts[:] = torch.tensor([[1, 2, 1, 0], [5, 0, 0, 5]])
    picker = bank.frozen()
    pick = (torch.arange(1000) + 0.5) / 1000
    for group, wanted in ((0, {0: 250, 1: 500, 2: 250}), (1, {4: 500, 7: 500})):
        label = torch.eye(2)[torch.full((1000,), group)]
        given = ((picker(pick, label).flatten() + 1) * 127.5).round().long()
        assert {int(v): int((given == v).sum()) for v in given.unique()} == wanted
    # rounding can give 1: never a vector that stands for nothing
    edges = picker(torch.tensor([0.0, 1.0]), torch.eye(2)[[1, 1]])
    assert ((edges.flatten() + 1) * 127.5).round().tolist() == [4, 7]


def test_the_nearest_is_of_the_own_class_and_in_use() -> None:
    vectors, labels = photos(60)
    bank = Bank((1, 2, 2), 2, 40)
    bank.fill(vectors, labels, False, rng())
    x = torch.rand(20, 1, 2, 2, generator=rng(3)) * 2 - 1
    label = torch.eye(2)[torch.arange(20) % 2]
    found = bank.nearest(x, label)
    for image, one, near in zip(x, label, found, strict=True):
        used = bank.decoded(bank.values[int(one.argmax())][bank.counts[int(one.argmax())] > 0])
        best = (used - image.flatten()).square().sum(1).min()
        assert (near - image).square().sum().item() == pytest.approx(
            float(best), rel=1e-4, abs=1e-5
        )
        assert (used - near.flatten()).abs().sum(1).min() < 1e-5


def test_codes_keep_their_range_in_eight_bits() -> None:
    codes = torch.randn(50, 4, 2, 2, generator=rng()) * 3 + 1
    bank = Bank((4, 2, 2), 0, 50)
    bank.fill(codes, torch.zeros(50, 0), False, rng())
    assert torch.cdist(bank.decoded(bank.values[0]), codes.flatten(1)).amin(0).max() < 0.15
    assert torch.equal(
        bank.nearest(codes[:3], torch.zeros(3, 0)), bank.nearest(codes[:3], torch.zeros(3, 0))
    )


@pytest.mark.parametrize(
    ("centroids", "wanted"),
    [
        (True, "class 1 has 1 different photos in the bank's sample, 4 are needed"),
        (False, "class 2 has 0 different photos"),
    ],
)
def test_a_class_that_cannot_be_represented_is_named(centroids: bool, wanted: str) -> None:
    vectors = torch.cat(
        [
            torch.randint(0, 255, (20, 1, 2, 2), generator=rng()).to(torch.uint8),
            torch.zeros(5, 1, 2, 2, dtype=torch.uint8),
        ]
    )
    labels = torch.eye(3)[[0] * 20 + [1] * 5]
    with pytest.raises(InputError, match=wanted) as caught:
        Bank((1, 2, 2), 3, 8).fill(vectors, labels, centroids, rng())
    assert caught.value.code == "E-DATA-TOO-FEW"


def test_a_bank_before_training_gives_grey() -> None:
    assert (
        Bank((1, 2, 2), 3, 8).frozen()(torch.tensor([0.0, 0.99]), torch.eye(3)[:2]).abs().max()
        < 0.01
    )
