"""Demands: the features that draw the sample's pixels on some regions only, the rest at its
baseline (docs/methods/regional-primitives.md, B.2.3). (torch)

`optimised`: the smallest change of the baseline that still draws the regions. `gated`: every
unit of the features is either as the sample has it or at its baseline, by where resetting it
changes the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import EdgegenError
from .lattice import Sets
from .split import Split

Advance = Callable[[int], None]
PENALTIES = tuple(10.0**-k for k in range(9))  # lambda, tried from the largest on
NEAR_RATE = 0.3
FLOOR = 35.0  # dB on the demanded regions


@dataclass(frozen=True)
class Solver:
    """Adam to get near, then Gauss-Newton with conjugate gradients inside, exact for a linear g;
    every demand starts alike.

    (On isc-gan, one demand for all regions: 12 steps of Gauss-Newton alone stop 5 dB short of both
    together, Adam alone 3 dB.) start: standard deviation of a common random start, in units of the
    spread; 0 starts at the baseline itself.
    """

    # steps of Adam, the rate falling along a cosine from 0.3 of the spread
    near: int = 60
    outer: int = 12
    inner: int = 12
    # of the residual of each inner solution, and of the objective's fall from step to step
    tolerance: float = 1e-3
    batch: int = 64
    start: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Solved:
    """u (t, K): what each demand changes of the baseline; psnr (t,): of its image on its regions,
    infinite for no region.
    """

    u: np.ndarray
    psnr: np.ndarray


def optimised(
    split: Split, masks: np.ndarray, demanded: Sets, weight: float, solver: Solver, advance: Advance
) -> Solved:
    """Optimised: argmin over f of mean |g(f) - x|^2 on the demanded pixels + weight mean ((f - f0)
    / spread)^2; masks (n, h, w) bool.
    """
    u = np.zeros((len(demanded), len(split.features)), split.features.numpy().dtype)
    reached = np.full(len(demanded), np.inf)
    asked = np.flatnonzero(demanded != 0)
    pixels = torch.from_numpy(masks).to(split.image.dtype)
    for k in range(0, len(asked), solver.batch):
        rows = asked[k : k + solver.batch]
        bits = torch.from_numpy(demanded[rows][:, None] >> np.arange(len(masks)) & 1).to(
            pixels.dtype
        )
        moved, error = _solve(split, torch.einsum("tn,nhw->thw", bits, pixels), weight, solver)
        u[rows] = (moved * split.spread).numpy()
        reached[rows] = (10 * torch.log10(4 / error)).numpy()
        advance(len(rows))
    return Solved(u, reached)


def penalty(split: Split, masks: np.ndarray, solver: Solver, floor: float = FLOOR) -> float:
    """The largest of PENALTIES with which all regions together are drawn with `floor` dB;
    EdgegenError if none is.
    """
    everything = np.array([(1 << len(masks)) - 1], np.int64)
    best = -np.inf
    for weight in PENALTIES:
        found = float(optimised(split, masks, everything, weight, solver, lambda _: None).psnr[0])
        if found >= floor:
            return weight
        best = max(best, found)
    raise EdgegenError(
        "E-EXPLAIN",
        f"no penalty lets the features draw the whole image with {floor:.0f} dB, the best gave "
        f"{best:.1f}",
        hint="choose a later layer, or gated demands",
    )


def _solve(split: Split, pixels: Tensor, weight: float, solver: Solver) -> tuple[Tensor, Tensor]:
    """Demanded pixels (b, h, w) of 0 and 1 -> moves in units of the spread (b, K), mean squared
    error on the pixels (b,).
    """
    b, k = len(pixels), len(split.features)
    share = pixels[:, None] / (pixels.sum((1, 2))[:, None, None, None] * len(split.image))
    rng = torch.Generator().manual_seed(solver.seed)
    start = solver.start * torch.randn(k, generator=rng, dtype=split.features.dtype)
    x = start.expand(b, k).clone()
    ridge = weight / k

    def residual(x: Tensor) -> Tensor:
        return (split.images(split.baseline + split.spread * x) - split.image) * share.sqrt()

    def objective(x: Tensor) -> Tensor:
        with torch.no_grad():
            return _square(residual(x)) + ridge * _square(x)

    with sdpa_kernel(SDPBackend.MATH):  # the other kernels cannot be differentiated twice
        x = _approach(lambda x: _square(residual(x)) + ridge * _square(x), x, solver.near)
        now = objective(x)
        for _ in range(solver.outer):
            with _products(residual, x) as (r, forward, back):
                slope = back(r) + ridge * x
                step = _conjugate(lambda p: back(forward(p)) + ridge * p, -slope, solver)
            x, then = _descend(objective, x, step, now)
            fallen, now = (now - then) / now.clamp(min=1e-30), then
            if float(fallen.max()) <= solver.tolerance**2:
                break
        with torch.no_grad():
            return x, _square(residual(x))


def _approach(objective: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """x after so many steps of Adam; rows do not see each other."""
    x = x.detach().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=NEAR_RATE, betas=(0.9, 0.99))
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = NEAR_RATE * 0.5 * (1 + math.cos(math.pi * k / steps))
        (x.grad,) = torch.autograd.grad(objective(x).sum(), x)
        optimizer.step()
    return x.detach()


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


@contextmanager
def _products(
    residual: Callable[[Tensor], Tensor], x: Tensor
) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """The residual at x, and products with its Jacobian J (b, K) -> (b, c, h, w) and J'; J by
    differentiating J' again.
    """
    x = x.detach().requires_grad_(True)
    r = residual(x)
    dual = torch.zeros_like(r, requires_grad=True)
    (back,) = torch.autograd.grad(r, x, dual, create_graph=True)

    def forward(p: Tensor) -> Tensor:
        return torch.autograd.grad(back, dual, p, retain_graph=True)[0]

    def backward(v: Tensor) -> Tensor:
        return torch.autograd.grad(r, x, v, retain_graph=True)[0]

    yield r.detach(), forward, backward


def _conjugate(product: Callable[[Tensor], Tensor], wanted: Tensor, solver: Solver) -> Tensor:
    """Solves product(x) = wanted (b, K), row by row, by conjugate gradients."""
    x = torch.zeros_like(wanted)
    r, d = wanted.clone(), wanted.clone()
    rr = first = _square(r)
    for _ in range(solver.inner):
        if bool((rr <= solver.tolerance**2 * first).all()):
            break
        a = product(d)
        bent = (d * a).sum(1)
        alpha = torch.where(bent > 0, rr / bent.clamp(min=1e-30), torch.zeros_like(rr))[:, None]
        x, r = x + alpha * d, r - alpha * a
        new = _square(r)
        d = r + (new / rr.clamp(min=1e-30))[:, None] * d
        rr = new
    return x


def _descend(
    objective: Callable[[Tensor], Tensor], x: Tensor, step: Tensor, now: Tensor
) -> tuple[Tensor, Tensor]:
    """x moved along `step` by 1, 1/2, 1/4 or 1/8, each row by the first that lowers its objective,
    or not at all.
    """
    best, then = x, now
    waiting = torch.ones_like(now, dtype=torch.bool)
    for halvings in range(4):
        tried = x + step * 0.5**halvings
        value = objective(tried)
        better = waiting & (value < now)
        best = torch.where(better[:, None], tried, best)
        then = torch.where(better, value, then)
        waiting &= ~better
        if not bool(waiting.any()):
            break
    return best, then


@dataclass(frozen=True)
class Gates:
    """sets (K,): the regions that each number of the features belongs to, 0 for none; units: how
    many were tried.
    """

    sets: Sets
    units: int


def gated(
    split: Split,
    masks: np.ndarray,
    share: float,
    limit: int,
    advance: Callable[[int, int], None],
    batch: int = 128,
) -> Gates:
    """Gated: a unit (a channel in a square of cells) belongs to the regions in which resetting it
    changes the image.

    A region counts from `share` of the most changed one's root mean square on; units that change
    nothing belong to none. Squares are as small as `limit` units allow. advance(units done, units
    in all).
    """
    unit, number = units(list(split.maps.values()), limit)
    changed = (split.features != split.baseline).numpy()
    tried = np.unique(unit[changed])
    regions = torch.from_numpy(masks).to(split.image.dtype).flatten(1)
    regions = regions / regions.sum(1, keepdim=True)
    groups = torch.from_numpy(unit)
    effects = np.zeros((number, len(masks)))
    with torch.no_grad():
        for k in range(0, len(tried), batch):
            some = torch.from_numpy(tried[k : k + batch])
            reset = torch.where(groups[None] == some[:, None], split.baseline, split.features)
            change = (split.images(reset) - split.image).square().mean(1).flatten(1)
            effects[some.numpy()] = (change @ regions.T).sqrt().numpy()
            advance(len(some), len(tried))
    strongest = effects.max(1, keepdims=True)
    acts = (effects >= share * strongest) & (strongest > 1e-6 * max(strongest.max(), 1e-30))
    sets = (acts * (1 << np.arange(len(masks), dtype=np.int64))).sum(1)
    return Gates(np.where(changed, sets[unit], 0), len(tried))


def units(shapes: Sequence[tuple[int, int, int]], limit: int) -> tuple[np.ndarray, int]:
    """The unit of each number of the maps (K,) and how many: a channel in squares of 1, 2, 4 ...
    cells, `limit` at most.
    """
    side = 1
    while True:
        made = [(c, -(-h // side), -(-w // side)) for c, h, w in shapes]
        total = sum(c * h * w for c, h, w in made)
        if total <= limit or side >= max(max(h, w) for _, h, w in shapes):
            break
        side *= 2
    parts, first = [], 0
    for (c, h, w), (_, rows, columns) in zip(shapes, made, strict=True):
        place = (np.arange(h) // side)[:, None] * columns + np.arange(w) // side
        parts.append((first + np.arange(c)[:, None, None] * (rows * columns) + place[None]).ravel())
        first += c * rows * columns
    return np.concatenate(parts), total
