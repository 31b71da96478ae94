"""Demands on a decoder whose primitives are known (docs/methods/regional-primitives.md, B.3, tests
4, 5, 8 and 9), and on a real family's layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import CONFIG, shaken

from edgegen.errors import EdgegenError
from edgegen.explain import lattice, measures
from edgegen.explain.demands import FLOOR, Gates, Solver, gated, optimised, penalty, units
from edgegen.explain.primitives import Edit, Settings, decompose, edited
from edgegen.explain.regions import Regions, grid
from edgegen.explain.split import Split, Way, layer, layers

K, N = 12, 5
TIGHT = Solver(outer=3, inner=60, tolerance=1e-12)
FULL = np.arange(1 << N)


def decoder(seed: int = 0) -> tuple[Split, np.ndarray, np.ndarray]:
    """12 units of known regions, five regions whose 16 pixels are each a random linear map of
    exactly their units, in float64.
    """
    rng = np.random.default_rng(seed)
    sets = rng.integers(1, 1 << N, K)
    acts = (sets[:, None] >> np.arange(N) & 1).astype(float)  # (K, N)
    weight = torch.from_numpy(rng.normal(size=(N * 16, K)) * np.repeat(acts.T, 16, axis=0))
    masks = np.repeat(np.arange(N), 16).reshape(1, 4 * N, 4) == np.arange(N)[:, None, None]

    def images(f: Tensor) -> Tensor:
        return (f @ weight.T).reshape(len(f), 1, 4 * N, 4)

    f, f0 = torch.from_numpy(rng.normal(size=K)), torch.from_numpy(rng.normal(size=K))
    return (
        Split(
            {"f": (K, 1, 1)}, f, f0, torch.ones(K, dtype=torch.float64), images(f[None])[0], images
        ),
        masks,
        sets,
    )


def taken(gates: Gates, chosen: int) -> np.ndarray:
    """(K,) 1 where the demand for these regions takes the sample's own number."""
    return (gates.sets & chosen != 0).astype(np.float32)


def truth(split: Split, sets: np.ndarray) -> np.ndarray:
    parts = np.zeros((1 << N, K))
    parts[sets, np.arange(K)] = (split.features - split.baseline).numpy()
    return parts


def nothing(*counts: int) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_optimised_demands_find_every_component_of_a_known_decoder(seed: int) -> None:
    split, masks, sets = decoder(seed)
    solved = optimised(split, masks, FULL, 1e-8, TIGHT, nothing)
    parts = lattice.components(solved.u)
    assert np.abs(parts - truth(split, sets)).max() < 1e-6
    strength = measures.strengths(parts)
    assert (strength[1:] > 1e-4).sum() == len(set(sets.tolist()))
    assert solved.psnr[1:].min() > 100 and not solved.u[0].any()


def test_gates_are_the_known_partition_and_agree_with_optimised_demands() -> None:
    split, masks, sets = decoder()
    gates = gated(split, masks, share=1e-6, limit=10_000, advance=nothing)
    np.testing.assert_array_equal(gates.sets, sets)
    change = (split.features - split.baseline).numpy()
    u = np.stack([change * taken(gates, int(t)) for t in FULL])
    parts = lattice.components(u)
    np.testing.assert_allclose(parts, truth(split, sets), atol=1e-12)
    np.testing.assert_allclose(u, optimised(split, masks, FULL, 1e-8, TIGHT, nothing).u, atol=1e-6)


def test_components_draw_inside_their_regions_and_wrong_names_are_by_chance() -> None:
    split, masks, sets = decoder()
    parts = lattice.components(optimised(split, masks, FULL, 1e-8, TIGHT, nothing).u)
    rng, right, wrong = np.random.default_rng(0), [], []
    origin = split.images(split.baseline[None])[0]
    for s in sorted(set(sets.tolist())):
        change = (
            split.images(split.baseline[None] + torch.from_numpy(parts[s])[None])[0] - origin
        ).numpy()
        right.append(
            measures.inside_share(change, masks[[j for j in range(N) if s >> j & 1]].any(0))
        )
        others = [rng.choice(N, s.bit_count(), replace=False) for _ in range(200)]
        wrong.append(
            np.mean([measures.inside_share(change, masks[o].any(0)) for o in others])
            - s.bit_count() / N
        )
    assert min(right) > 1 - 1e-9
    assert abs(np.mean(wrong)) < 0.05


def test_a_swapped_component_is_the_other_samples_and_the_rest_stays() -> None:
    split, masks, sets = decoder()
    theirs = replace(split, features=split.features.flip(0))
    theirs = replace(theirs, image=theirs.images(theirs.features[None])[0])
    settings = Settings(Regions(masks.argmax(0)))
    found, other = (decompose(one, settings, lambda *_: None) for one in (split, theirs))
    chosen = next(s for s in found.order if s in other.order)
    mixed = torch.where(torch.from_numpy(sets == chosen), theirs.features, split.features)
    made = edited(split, found, [Edit(chosen, donor=1)], {1: other})
    np.testing.assert_allclose(made, split.images(mixed[None])[0].numpy(), atol=1e-5)
    gone = torch.where(torch.from_numpy(sets == chosen), split.baseline, split.features)
    np.testing.assert_allclose(
        edited(split, found, [Edit(chosen, 0.0)], {}),
        split.images(gone[None])[0].numpy(),
        atol=1e-5,
    )
    with pytest.raises(KeyError):
        found.of(1 << N)


def test_a_strong_penalty_is_no_or_gate_and_the_measures_say_so() -> None:
    """Reconstruction from all components stays exact whatever the demands: it shows nothing."""
    split, masks, sets = decoder()
    u = optimised(split, masks, FULL, 1.0, TIGHT, nothing).u
    parts = lattice.components(u)
    assert measures.additivity_error(FULL[1:], parts[1:], FULL, u) < 1e-12
    assert np.abs(parts - truth(split, sets)).max() > 0.05


def test_two_random_starts_give_the_same_strongest_components() -> None:
    split, masks, _ = decoder()
    tops = []
    for seed in (1, 2):
        solver = replace(TIGHT, start=0.01, seed=seed)
        parts = lattice.components(optimised(split, masks, FULL, 1e-4, solver, nothing).u)[1:]
        tops.append([int(FULL[1:][k]) for k in measures.strongest(measures.strengths(parts), 20)])
    true = len(set(decoder()[2].tolist()))
    assert measures.transfer(tops[0], tops[1], true, true) == 1


def test_batches_change_nothing() -> None:
    split, masks, _ = decoder()
    one = optimised(split, masks, FULL, 1e-4, replace(TIGHT, batch=3), nothing).u
    np.testing.assert_allclose(
        one, optimised(split, masks, FULL, 1e-4, TIGHT, nothing).u, atol=1e-9
    )


def test_the_penalty_is_the_largest_that_draws_the_image() -> None:
    split, masks, _ = decoder()
    weight = penalty(split, masks, TIGHT)
    everything = np.array([(1 << N) - 1])
    assert optimised(split, masks, everything, weight, TIGHT, nothing).psnr[0] >= FLOOR
    assert optimised(split, masks, everything, 10 * weight, TIGHT, nothing).psnr[0] < FLOOR
    with pytest.raises(
        EdgegenError,
        match=r"E-EXPLAIN.*no penalty lets the features draw the whole image with 1000 dB",
    ):
        penalty(split, masks, TIGHT, floor=1000.0)


def test_units_are_channels_in_squares_as_small_as_the_limit_allows() -> None:
    unit, total = units([(2, 4, 4), (3, 2, 2)], 100)
    assert total == 44 and len(set(unit.tolist())) == 44
    unit, total = units([(2, 4, 4), (3, 2, 2)], 43)
    assert total == 2 * 4 + 3 and unit[:4].tolist() == [0, 0, 1, 1] and unit[4 * 4 * 2] == 8


@pytest.fixture(scope="module")
def middle() -> tuple[Way, Split]:
    made = shaken(CONFIG, scale=0.3)
    made.networks.eval()
    way = Way(made, layer(made.graphs(), "theta.trunk.middle"), 2)
    return way, way.split(7, None, way.baseline(32, batch=8))


@pytest.mark.slow
def test_features_of_a_family_s_layer_draw_the_seed_s_image(middle: tuple[Way, Split]) -> None:
    way, split = middle
    again = split.images(split.features[None].expand(3, -1))
    for image in again:
        torch.testing.assert_close(image, split.image, atol=1e-5, rtol=0)
    assert (split.images(split.baseline[None])[0] - split.image).abs().max() > 1e-3
    reached = way._reached(range(1 << 40, (1 << 40) + 32))
    torch.testing.assert_close(split.baseline, reached.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_demands_of_a_family_s_layer(middle: tuple[Way, Split]) -> None:
    """A gated demand draws its region better than the baseline, an optimised one nearer the
    baseline.
    """
    _, split = middle
    masks = grid(2, 2, 16, 16).masks
    gates = gated(split, masks, 0.2, 200, nothing)
    origin = split.images(split.baseline[None])[0].numpy()
    change = split.features - split.baseline
    weight = penalty(split, masks, Solver(), 30.0)
    demanded = np.array([0, 1, 6, 15])
    solved = optimised(split, masks, demanded, weight, Solver(), nothing)
    for t, u in zip(demanded[1:], solved.u[1:], strict=True):
        mask = masks[[j for j in range(4) if t >> j & 1]].any(0)
        drawn = split.images(
            (split.baseline + change * torch.from_numpy(taken(gates, int(t))))[None]
        )[0].numpy()
        before = measures.psnr(origin, split.image.numpy(), mask)
        assert measures.psnr(drawn, split.image.numpy(), mask) > before
        solution = split.images((split.baseline + torch.from_numpy(u))[None])[0].numpy()
        assert measures.psnr(solution, split.image.numpy(), mask) > 25
    norms = [np.linalg.norm(u / split.spread.numpy().clip(1e-9)) for u in solved.u]
    assert norms[0] == 0 and norms[1] < norms[3] < np.linalg.norm(
        (change / split.spread.clip(min=1e-9)).numpy()
    )


@pytest.mark.slow
def test_layers_are_found_by_name_and_by_part() -> None:
    graphs = shaken(CONFIG, scale=0.3).graphs()
    names = [one.name for one in layers(graphs)]
    assert "phi.trunk.middle" in names and layer(graphs, "mid").name == "theta.trunk.middle"
    assert layer(graphs, "theta.trunk.up.1").name == "theta.trunk.up.1"
    sentences = {
        "middle": "means 2 layers: theta.trunk.middle, phi.trunk.middle",
        "up9": "is no layer; there are: theta",
    }
    for word, sentence in sentences.items():
        with pytest.raises(
            EdgegenError, match=f"E-LAYER.*{sentence}.*edgegen layers SOURCE lists them"
        ):
            layer(graphs, word)
