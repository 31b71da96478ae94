"""Decomposition of one seed's features by regions: from demands to components, with measures of
them. (torch)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from . import lattice, measures, sparse
from .demands import Gates, Solver, gated, optimised, penalty
from .lattice import Floats, Sets
from .regions import LATTICE, Regions
from .split import Split

TOP, AMONG = 20, 100  # numbers of sets for `transfer`
SAMPLED = 512  # number of demands if there are too many subsets to solve all
RESOLVED = 16  # number of demands solved again from another start, to measure the noise
RANDOM = 16  # number of vectors and demands over which chance levels are averaged
Progress = Callable[[str, int, int], None]  # name of the work, units done since, all units


@dataclass(frozen=True)
class Primitives:
    """Components of one seed's features, strongest first.

    sets, strength, floor (m,): regions, norm and noise floor of each; compact (m, r): the
    components in coordinates that keep norms; demanded (t,), u (t, r): the demands they come from,
    in the same coordinates; facts: figures on how they were found.
    """

    sets: Sets
    strength: Floats
    floor: Floats
    compact: Floats
    demanded: Sets
    u: Floats
    facts: dict[str, Any]
    vector: Callable[[int], Floats] = field(repr=False)  # the component at a place, (K,)

    @property
    def order(self) -> list[int]:
        """The sets as integers, strongest first."""
        return [int(s) for s in self.sets]

    def of(self, chosen: int) -> Floats:
        """Return the component (K,) of a set of regions. KeyError if there is none."""
        places = np.flatnonzero(self.sets == chosen)
        if not len(places):
            raise KeyError(chosen)
        return self.vector(int(places[0]))


@dataclass(frozen=True)
class Settings:
    """The settings of a decomposition."""

    regions: Regions
    kind: str = "gated"  # a key of KINDS
    # "gated": a region counts for a unit from this share of the unit's strongest effect on
    share: float = 0.2
    limit: int = 8192  # "gated": most units to try
    solver: Solver = field(default_factory=Solver)


def decompose(split: Split, settings: Settings, progress: Progress) -> Primitives:
    return KINDS[settings.kind](split, settings, progress)


def _gated(split: Split, settings: Settings, progress: Progress) -> Primitives:
    """Decompose with gated demands, for any number of regions; components do not overlap."""

    def advance(more: int, total: int) -> None:
        progress("resetting units", more, total)

    gates: Gates = gated(split, settings.regions.masks, settings.share, settings.limit, advance)
    change = (split.features - split.baseline).numpy()
    sets = np.unique(gates.sets)
    sets = sets[sets != 0]
    strength = np.sqrt([np.square(change[gates.sets == s], dtype=np.float64).sum() for s in sets])
    order = measures.strongest(strength, len(sets))
    sets, strength = sets[order], strength[order]
    rng = np.random.default_rng(0)
    demanded = _demands(settings.regions.count, rng)
    compact = np.diag(strength)
    lost = float(np.linalg.norm(change[gates.sets == 0]))
    facts = {
        "demands": "gated",
        "units": gates.units,
        "without effect": lost / max(float(np.linalg.norm(change)), 1e-30),
    }
    return Primitives(
        sets,
        strength,
        np.zeros(len(sets)),
        compact,
        demanded,
        lattice.meets(demanded, sets) @ compact,
        facts,
        lambda k: np.where(gates.sets == sets[k], change, 0).astype(np.float32),
    )


def _optimised(split: Split, settings: Settings, progress: Progress) -> Primitives:
    """Decompose with optimised demands: all subsets of up to LATTICE regions, and for more regions
    a regression on some of the subsets.
    """
    regions, solver = settings.regions, settings.solver
    masks, rng = regions.masks, np.random.default_rng(0)
    weight = penalty(split, masks, solver)
    demanded = _demands(regions.count, rng)
    again = rng.choice(np.arange(1, len(demanded)), min(RESOLVED, len(demanded) - 1), replace=False)
    total = int(np.count_nonzero(demanded)) + len(again)  # the empty demand needs no solution

    def advance(more: int) -> None:
        progress("solving demands", more, total)

    solved = optimised(split, masks, demanded, weight, solver, advance)
    moved = optimised(
        split,
        masks,
        demanded[again],
        weight,
        replace(solver, start=0.01, seed=solver.seed + 1),
        advance,
    )
    sigma = float(np.sqrt(np.square(moved.u - solved.u[again], dtype=np.float64).sum(1).mean() / 2))
    sets, vectors = _parts(demanded, solved.u, regions.count, rng)
    strength = measures.strengths(vectors)
    order = measures.strongest(strength, len(sets))
    sets, vectors, strength = sets[order], vectors[order], strength[order]
    joint = measures.compact(np.concatenate([vectors, solved.u]))
    whole = (split.features - split.baseline).numpy()
    rest = float(np.linalg.norm(whole - vectors.sum(0)) / max(float(np.linalg.norm(whole)), 1e-30))
    drawn = solved.psnr[demanded != 0]
    facts = {
        "demands": "optimised",
        "lambda": weight,
        "solved": len(demanded),
        "sigma": sigma,
        "psnr on the regions": {"least": float(drawn.min()), "median": float(np.median(drawn))},
        "background": rest,
    }
    return Primitives(
        sets,
        strength,
        lattice.noise_floor(sigma, sets),
        joint[: len(sets)],
        demanded,
        joint[len(sets) :],
        facts,
        lambda k: vectors[k],
    )


KINDS: dict[str, Callable[[Split, Settings, Progress], Primitives]] = {
    "gated": _gated,
    "optimised": _optimised,
}


def _demands(count: int, rng: np.random.Generator) -> Sets:
    """Return all subsets of up to LATTICE regions, or SAMPLED random subsets of more."""
    if count <= LATTICE:
        return np.arange(1 << count, dtype=np.int64)
    drawn = [rng.permutation(count)[: rng.integers(1, count + 1)] for _ in range(SAMPLED)]
    return np.array([sum(1 << int(j) for j in some) for some in drawn], np.int64)


def _parts(demanded: Sets, u: Floats, count: int, rng: np.random.Generator) -> tuple[Sets, Floats]:
    if count <= LATTICE:
        return demanded[1:], lattice.components(u)[1:]
    order = 2 if count <= 24 else 1
    chosen = sparse.regress(
        demanded, measures.compact(u), sparse.candidates(count, order=order), rng
    ).sets
    return chosen, sparse.fit(demanded, u.astype(np.float64), chosen, 0.0).astype(u.dtype)


def additivity(decomposition: Primitives, regions: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return the relative errors of the additive model, on all demands and, where that means
    something, on demands that no fit has seen.
    """
    sets, parts = decomposition.sets, decomposition.compact
    demanded, u = decomposition.demanded, decomposition.u
    top = max(1, len(sets) // 5)
    errors: dict[str, Any] = {
        "all components, all demands": measures.additivity_error(sets, parts, demanded, u),
        "top 20 %, all demands": measures.additivity_error(sets[:top], parts[:top], demanded, u),
    }
    if decomposition.facts["demands"] == "gated" or not 4 <= regions <= LATTICE:
        return errors
    wide = sparse.regress(demanded, u, sparse.candidates(regions), rng)
    shuffled = u.copy()
    shuffled[1:] = u[1:][rng.permutation(len(u) - 1)]
    return errors | {
        "held out": wide.held_out,
        "components of the fit": len(wide.sets),
        "held out, single regions only": sparse.regress(
            demanded, u, sparse.candidates(regions, order=1), rng
        ).held_out,
        "held out, demands exchanged (chance)": sparse.regress(
            demanded, shuffled, sparse.candidates(regions), rng
        ).held_out,
    }


def sparsity(decomposition: Primitives) -> dict[str, Any]:
    strength = decomposition.strength
    return {
        "components": len(strength),
        "above their noise floor": int((strength > decomposition.floor).sum()),
        "above 5 % of the strongest": measures.visible(strength),
        "needed for 5 % error": measures.needed(
            decomposition.sets, decomposition.compact, decomposition.demanded, decomposition.u, 0.05
        ),
        "needed for 1 % error": measures.needed(
            decomposition.sets, decomposition.compact, decomposition.demanded, decomposition.u, 0.01
        ),
    }


@dataclass(frozen=True)
class Drawn:
    """One component as images (c, h, w): the baseline with it (added) and the sample without it,
    with its measures.
    """

    chosen: int
    added: Floats
    without: Floats
    numbers: dict[str, float]


def draw(split: Split, decomposition: Primitives, regions: Regions, count: int) -> list[Drawn]:
    """Draw the strongest components above their noise floor, at most `count`, and measure their
    boundedness, consistency and chance levels.
    """
    shown = [
        k
        for k in range(len(decomposition.sets))
        if decomposition.strength[k] > decomposition.floor[k]
    ][:count]
    if not shown:
        return []
    base, full = split.baseline[None], split.features[None]
    vectors = torch.from_numpy(np.stack([decomposition.vector(k) for k in shown])).to(
        split.features.dtype
    )
    origin, image = images(split, base)[0], split.image.numpy()
    added, without = images(split, base + vectors), images(split, full - vectors)
    noise = (
        torch.randn(RANDOM, vectors.shape[1], generator=torch.Generator().manual_seed(0))
        * split.spread
    )
    noise = noise * (
        vectors.norm(dim=1).median() / noise.norm(dim=1, keepdim=True).clamp(min=1e-30)
    )
    random = images(split, base + noise) - origin
    drawn = []
    for place, k in enumerate(shown):
        chosen = int(decomposition.sets[k])
        mask, change, removed = regions.mask(chosen), added[place] - origin, image - without[place]
        drawn.append(
            Drawn(
                chosen,
                added[place],
                without[place],
                {
                    "strength": float(decomposition.strength[k]),
                    "floor": float(decomposition.floor[k]),
                    "area": float(mask.mean()),
                    "inside": measures.inside_share(change, mask),
                    "inside, in the sample": measures.inside_share(removed, mask),
                    "inside, random vectors": float(
                        np.mean([measures.inside_share(r, mask) for r in random])
                    ),
                    "overlap with what it really changes": measures.overlap(
                        chosen, measures.action_field(change, regions.masks)
                    ),
                    "cosine between contexts": measures.cosine(change, removed),
                    "psnr between contexts": measures.psnr(change, removed),
                },
            )
        )
    return drawn


def faithful(
    split: Split, decomposition: Primitives, regions: Regions, rng: np.random.Generator
) -> dict[str, float]:
    """Return the mean PSNR in dB on the demanded regions, over random demands, of images from sums
    of components, with the baseline's for comparison.
    """
    top = max(1, len(decomposition.sets) // 5)
    demanded = rng.choice(decomposition.demanded[decomposition.demanded != 0], RANDOM)
    everything = np.arange(len(decomposition.sets))
    kept = {
        "all components": everything,
        "top 20 %": everything[:top],
        "random 20 % (chance)": rng.permutation(everything)[:top],
        "none: the baseline (chance)": everything[:0],
    }
    vectors = np.array([decomposition.vector(int(k)) for k in everything]).reshape(
        len(everything), len(split.features)
    )
    quality = {}
    for name, places in kept.items():
        sums = lattice.meets(demanded, decomposition.sets[places]) @ vectors[places]
        drawn = images(
            split, split.baseline[None] + torch.from_numpy(sums).to(split.features.dtype)
        )
        quality[name] = float(
            np.mean(
                [
                    measures.psnr(x, split.image.numpy(), regions.mask(t))
                    for x, t in zip(drawn, demanded.tolist(), strict=True)
                ]
            )
        )
    return quality


def shared(decomposition: Primitives, other: Primitives, regions: int) -> dict[str, float]:
    """Return the shares of the strongest sets that are among another's strongest, with chance."""
    shares = {}
    for among in (TOP, AMONG):
        shares[f"{TOP}/{among}"] = measures.transfer(decomposition.order, other.order, TOP, among)
        shares[f"{TOP}/{among} (chance)"] = measures.chance(min(among, len(other.sets)), regions)
    return shares


@dataclass(frozen=True)
class Edit:
    """An edit of the primitive of a set of regions: another strength (0 removes, 1 keeps it), or
    the primitive of the seed `donor` in its place.
    """

    chosen: int
    strength: float = 1.0
    donor: int | None = None


def edited(
    split: Split, decomposition: Primitives, edits: Sequence[Edit], donors: Mapping[int, Primitives]
) -> Floats:
    """Return the sample (c, h, w) after all edits.

    donors: components at the same cut, by seed. KeyError for a set without a component.
    """
    features = split.features.clone()
    for edit in edits:
        own = decomposition.of(edit.chosen)
        change = (
            (edit.strength - 1) * own
            if edit.donor is None
            else donors[edit.donor].of(edit.chosen) - own
        )
        features += torch.from_numpy(change).to(features.dtype)
    return images(split, features[None])[0]


def images(split: Split, features: torch.Tensor, batch: int = 64) -> Floats:
    """Draw images (b, c, h, w) from features (b, K), in batches and without gradients."""
    with torch.no_grad():
        return np.concatenate([split.images(part).numpy() for part in torch.split(features, batch)])
