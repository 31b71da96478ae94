"""Components from only some of the demands, by group-sparse regression, which predicts the demands
that it has not seen (docs/methods/regional-primitives.md, B.2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .lattice import Floats, Sets, meets
from .measures import additivity_error, strengths

ORDER = 3  # most regions of a candidate set that is not suggested
# penalties to try, as shares of the one at which no component is left
PATH = tuple(10 ** (-k / 3) for k in range(1, 13))
STEPS, TOLERANCE = 400, 1e-5


def candidates(regions: int, suggested: Sets | None = None, order: int = ORDER) -> Sets:
    """Return all sets of up to `order` regions and the suggested sets, ascending, without the
    empty set.
    """
    found = {
        sum(1 << j for j in picked)
        for k in range(1, order + 1)
        for picked in combinations(range(regions), k)
    }
    found |= {int(s) for s in suggested} if suggested is not None else set()
    return np.array(sorted(found - {0}), np.int64)


def fit(
    demanded: Sets, u: Floats, sets: Sets, penalty: float, start: Floats | None = None
) -> Floats:
    """Return argmin over x (m, K) of 1/2 |A x - u|^2 + penalty * sum of |x_S|, where A =
    meets(demanded, sets), by FISTA with restarts.

    penalty 0 gives the least-squares solution of smallest norm.
    """
    a = meets(demanded, sets)
    if penalty == 0:
        return np.linalg.lstsq(a, u, rcond=None)[0]
    gram, target = a.T @ a, a.T @ u
    rate = 1 / float(np.linalg.eigvalsh(gram)[-1])
    x = np.zeros((len(sets), u.shape[1])) if start is None else start
    y, t = x, 1.0
    for _ in range(STEPS):
        moved = y - rate * (gram @ y - target)
        norm = strengths(moved)[:, None]
        new = moved * np.maximum(0, 1 - rate * penalty / np.maximum(norm, 1e-300))
        step = new - x
        if ((y - new) * step).sum() > 0:  # momentum points uphill
            t = 1.0
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        y, t = new + (t - 1) / t_new * step, t_new
        done = bool(np.linalg.norm(step) <= TOLERANCE * np.linalg.norm(new))
        x = new
        if done:
            break
    return x


def lightest(demanded: Sets, u: Floats, sets: Sets) -> float:
    """Return the smallest penalty at which no component is left."""
    return float(strengths(meets(demanded, sets).T @ u).max())


@dataclass(frozen=True)
class Sparse:
    """The chosen components (m, K), the penalty with which they were chosen, and their error on
    demands that neither the fit nor the choice has seen.
    """

    sets: Sets
    vectors: Floats
    penalty: float
    held_out: float


def regress(demanded: Sets, u: Floats, sets: Sets, rng: np.random.Generator) -> Sparse:
    """Fit components on three eighths of the demands, choose the penalty on an eighth, and test on
    the remaining half; chosen components are refitted without shrinkage.

    u (t, K) should come from measures.compact. The empty demand is left out. ValueError for fewer
    than 8 demands.
    """
    asked = np.flatnonzero(demanded != 0)
    if len(asked) < 8:
        raise ValueError(f"a regression needs 8 demands or more, got {len(asked)}")
    asked = rng.permutation(asked)
    half, eighth = len(asked) // 2, max(1, len(asked) // 8)
    test, judge, train = asked[:half], asked[half : half + eighth], asked[half + eighth :]
    top = lightest(demanded[train], u[train], sets)
    best: tuple[float, float, Sets, Floats] | None = None
    x = None
    for share in PATH:
        x = fit(demanded[train], u[train], sets, share * top, x)
        kept = np.flatnonzero(strengths(x) > 0)
        vectors = fit(demanded[train], u[train], sets[kept], 0.0)
        error = additivity_error(sets[kept], vectors, demanded[judge], u[judge])
        if best is None or error < best[0]:
            best = error, share * top, sets[kept], vectors
    assert best is not None
    _, penalty, chosen, vectors = best
    return Sparse(
        chosen, vectors, penalty, additivity_error(chosen, vectors, demanded[test], u[test])
    )
