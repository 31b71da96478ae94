"""The exact OR decomposition over all subsets of n regions, and its inverse (B.2.2 of
docs/methods/regional-primitives.md).

A set of regions is an integer in which bit j stands for region j. Row T of `u` is the change of the
features by the demand for the regions in T, u(T) = f_T - f0. Row S of the components is I_or(S):
u(T) = u(0) + the sum of all components whose S meets T. That holds for any u, so reconstruction
shows nothing about a network; measures.py has what does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Sets = np.ndarray[Any, np.dtype[np.int64]]

CHUNK = 1 << 22  # values that a transform holds in float64 at a time: 32 MB


def regions_of(rows: int) -> int:
    """Return n for a lattice of 2**n rows. ValueError for another number of rows."""
    if rows < 1 or rows & (rows - 1):
        raise ValueError(f"a lattice has 2**n rows, got {rows}")
    return rows.bit_length() - 1


def components(u: Floats) -> Floats:
    """Return the components (2^n, ...) of u (2^n, ...), of the same type but computed in float64;
    row 0 is u(0).

    I_or(S) = - sum over L in S of (-1)^(|S| - |L|) u(N without L), which takes n 2^(n - 1)
    subtractions per coordinate.
    """
    return _by_chunks(u, _decompose)


def demands(parts: Floats) -> Floats:
    """Return u from its components: u(T) = u(0) + z(N) - z(N without T), where z(L) is the sum of
    the components inside L.
    """
    return _by_chunks(parts, _compose)


def sizes(sets: Sets) -> Sets:
    """Return the number of regions in each set."""
    return np.array([int(s).bit_count() for s in sets], np.int64)


def meets(demanded: Sets, sets: Sets) -> Floats:
    """Return a matrix (t, m) that is 1 where a component's regions meet those of a demand."""
    return (demanded[:, None] & sets[None] != 0).astype(np.float64)


def noise_floor(sigma: float, sets: Sets, kappa: float = 3.0) -> Floats:
    """Return the strength (m,) above which a component is more than noise, kappa sigma 2^(|S| / 2).

    sigma: root mean square of the norm of the error of one u(T). Errors of different T are taken as
    independent, and a set of |S| regions sums 2^|S| of them.
    """
    return kappa * sigma * 2.0 ** (sizes(sets) / 2)


def _by_chunks(u: Floats, transform: Any) -> Floats:
    n = regions_of(len(u))
    flat = u.reshape(len(u), -1)
    out = np.empty_like(flat)
    width = max(1, CHUNK >> n)
    for k in range(0, flat.shape[1], width):
        out[:, k : k + width] = transform(flat[:, k : k + width].astype(np.float64))
    return out.reshape(u.shape)


def _decompose(u: Floats) -> Floats:
    a = np.ascontiguousarray(u[::-1])  # row L is u(N without L)
    for upper, lower in _halves(a):
        upper -= lower
    parts = -a
    parts[0] = u[0]
    return parts


def _compose(parts: Floats) -> Floats:
    z = parts.copy()
    z[0] = 0
    for upper, lower in _halves(z):
        upper += lower
    return parts[0] + z[-1] - z[::-1]


def _halves(a: Floats) -> list[tuple[Floats, Floats]]:
    """Return for each bit the views of the rows with it, and of the same rows without it."""
    n, width = regions_of(len(a)), a.shape[1]
    views = [a.reshape(-1, 2, 1 << bit, width) for bit in range(n)]
    return [(view[:, 1], view[:, 0]) for view in views]
