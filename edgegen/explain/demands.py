"""Demands: features that draw the sample's pixels only in some regions, with the rest at the
baseline (docs/methods/regional-primitives.md, B.2.3). (torch)

`optimised` finds the smallest change of the baseline that still draws the regions. `gated` sets
each unit of the features either to its value in the sample or to its baseline, by where a reset of
the unit changes the image.
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
PENALTIES = tuple(10.0**-k for k in range(9))  # values of lambda, tried from the largest on
NEAR_RATE = 0.3  # Adam's first rate, in units of the spread
FLOOR = 35.0  # least PSNR in dB on the demanded regions


@dataclass(frozen=True)
class Solver:
    """Settings of the solver: Adam first, then Gauss-Newton steps, each solved with conjugate
    gradients; that is exact for a linear g. All demands start at the same point.

    (On isc-gan, with one demand for all regions, 12 steps of Gauss-Newton alone end 5 dB below both
    together, and Adam alone 3 dB.) start: standard deviation of a common random start, in units of
    the spread; 0 starts at the baseline itself.
    """

    # steps of Adam, whose rate falls along a cosine from 0.3 of the spread
    near: int = 60
    outer: int = 12
    inner: int = 12
    # relative tolerance of each inner solution's residual, and of the objective's fall per step
    tolerance: float = 1e-3
    batch: int = 64
    start: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Solved:
    """The solutions of t demands.

    u (t, K): each demand's change of the baseline; psnr (t,): in dB, of its image on its regions,
    infinite for no region.
    """

    u: np.ndarray
    psnr: np.ndarray


def optimised(
    split: Split, masks: np.ndarray, demanded: Sets, weight: float, solver: Solver, advance: Advance
) -> Solved:
    """Solve demands as argmin over f of mean |g(f) - x|^2 on the demanded pixels + weight
    mean ((f - f0) / spread)^2.

    masks: (n, h, w) bool; demanded: sets of regions as bits; advance: called with demands done.
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
    """Return the largest of PENALTIES with which all regions together are drawn with at least
    `floor` dB. EdgegenError if there is none.
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
    """Solve for demanded pixels (b, h, w) of 0 and 1, and return the moves (b, K) in units of the
    spread and the mean squared errors (b,) on the pixels.
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
    """Return x after so many steps of Adam; rows do not affect each other."""
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
    """Yield the residual at x, and the products with its Jacobian J (b, K) -> (b, c, h, w) and with
    J'; J is computed by differentiating J' again.
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
    """Solve product(x) = wanted (b, K) by conjugate gradients, independently for each row."""
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
    """Move each row of x along `step` by the first of 1, 1/2, 1/4 and 1/8 that lowers its
    objective, or not at all, and return x and the objectives.
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
    """The result of `gated`: sets (K,), the regions to which each value of the features belongs (0
    for none), and the number of units that were tried.
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
    """Assign each unit (a channel in a square of cells) to the regions in which resetting it to its
    baseline changes the image.

    A region counts if its root mean square change is at least `share` of the most changed
    region's; units that change nothing belong to none. Squares are as small as `limit` units
    allow. advance: called with (units done, all units).
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
    """Return the unit (K,) of each value of the maps (c, h, w), and the number of units.

    A unit is a channel in a square of 1, 2, 4 ... cells a side, the smallest that gives at most
    `limit` units, if possible.
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
