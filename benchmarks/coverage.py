"""The intervals of edgegen/evidence/intervals.py are checked on known truths, beside the bootstrap.

    python -m benchmarks coverage                    # drawn populations: about 5 CPU minutes
    python -m benchmarks coverage --photos FOLDER
        Fashion-MNIST idx files: EfficientNet-Lite0 features of damaged photos

A row is a case: dimensions, pairs, damage; true change and its 95 % half-width; the share of runs
whose interval holds the truth, for the infinitesimal jackknife (at 95 % and 99 %), the paired
percentile and basic bootstrap, and the distance itself. A second table says how often the
sequential comparison says "within" when the true change sits exactly on the edge of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from _measure import holds
from _pictures import blurred, noisy
from _result import Part, Row, arguments_of, followed, report
from PIL import Image

from edgegen.core.verdict import Verdict
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import feature_network
from edgegen.evidence.intervals import distance_change, estimate
from edgegen.evidence.looks import plan_looks
from edgegen.evidence.reference import build
from edgegen.training.data import load

DAMAGE = {"lossless": 0.005, "near": 0.02, "damaged": 0.15}
CLASSES = 10
Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass
class Case:
    """Hold a reference, the exact moments of two populations, and a way to draw n pairs
    from them.
    """

    reference: Moments
    full: Moments
    other: Moments
    draw: Draw

    @property
    def change(self) -> float:
        return frechet(self.other, self.reference) / frechet(self.full, self.reference) - 1


def drawn(dim: int, damage: float, seed: int, gap: float = 0.4) -> Case:
    """Make a case of ten heavy-tailed clusters with a 1/f spectrum; the other model is an affine
    map of them plus its own noise.
    """
    rng = np.random.default_rng((seed, dim))
    spectrum = dim / np.arange(1, dim + 1)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    shapes = np.stack(
        [basis * np.sqrt(spectrum) * np.exp(0.2 * rng.normal(size=dim)) for _ in range(CLASSES)]
    )
    centres = rng.normal(size=(CLASSES, dim)) * np.sqrt(spectrum)
    cov = np.einsum("cij,ckj->ik", shapes, shapes) / CLASSES + np.cov(centres.T, bias=True)
    mean, wide = centres.mean(0), np.sqrt(np.diag(cov))
    turn = np.eye(dim) * (1 + gap / 4) + gap / 4 * rng.normal(size=(dim, dim)) / np.sqrt(dim)
    real = Moments(mean + gap * rng.normal(size=dim) * wide, turn @ cov @ turn.T, 0)
    bend = np.eye(dim) * (1 + damage * rng.normal()) + damage * rng.normal(
        size=(dim, dim)
    ) / np.sqrt(dim)
    shift, noise = damage * rng.normal(size=dim) * wide, 2 * damage * np.sqrt((wide**2).mean())

    def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        label = np.sort(rng.integers(CLASSES, size=n))
        z = rng.normal(size=(n, dim)) * np.sqrt(rng.gamma(3, 1 / 3, size=(n, 1)))
        x = np.concatenate([centres[c] + z[label == c] @ shapes[c].T for c in range(CLASSES)])
        return x, x @ bend.T + shift + noise * rng.normal(size=x.shape)

    other = Moments(bend @ mean + shift, bend @ cov @ bend.T + noise**2 * np.eye(dim), 0)
    return Case(real, Moments(mean, cov, 0), other, draw)


def pool(reference: Moments, full: np.ndarray, other: np.ndarray) -> Case:
    """Make a case in which the given pairs are the whole population; runs draw from them with
    replacement.
    """

    def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(len(full), size=n)
        return full[rows], other[rows]

    def exact(x: np.ndarray) -> Moments:
        return Moments(x.mean(0, np.float64), np.cov(x.T, bias=True), 0)

    return Case(reference, exact(full), exact(other), draw)


def bootstrap(
    case: Case, x: np.ndarray, y: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[bool, bool]:
    """Return whether the 95 % percentile and basic intervals of `resamples` paired resamples hold
    the truth.
    """

    def change(rows: np.ndarray) -> float:
        a, b = (frechet(Moments.of(v[rows]), case.reference) for v in (x, y))
        return b / a - 1

    found = change(np.arange(len(x)))
    low, high = np.quantile(
        [change(rng.integers(len(x), size=len(x))) for _ in range(resamples)], (0.025, 0.975)
    )
    return bool(low <= case.change <= high), bool(
        2 * found - high <= case.change <= 2 * found - low
    )


def row(name: str, cases: Callable[[int], Case], n: int, runs: int, resamples: int) -> Row:
    """Return the row of a case; run r draws from cases(r)."""
    held, halves, changes, boots = [], [], [], []
    for r in range(runs):
        case, rng = cases(r), np.random.default_rng((r, n))
        x, y = case.draw(n, rng)
        a, b = estimate(case.reference, x), estimate(case.reference, y)
        at95, at99, own = distance_change(a, b), distance_change(a, b, 0.99), a.interval()
        truth, distance = case.change, frechet(case.full, case.reference)
        held.append((holds(at95, truth), holds(at99, truth), holds(own, distance)))
        halves.append((at95.high - at95.low) / 2)
        changes.append(abs(truth))
        if resamples and r < max(runs // 8, 1):
            boots.append(bootstrap(case, x, y, resamples, rng))
    mean = np.mean(held, 0).tolist()
    boot = np.mean(boots, 0).tolist() if boots else [None, None]
    return {
        "case": name,
        "pairs": n,
        "true change": float(np.median(changes)),
        "half-width": float(np.median(halves)),
        "jackknife 95": mean[0],
        "jackknife 99": mean[1],
        "percentile 95": boot[0],
        "basic 95": boot[1],
        "distance 95": mean[2],
    }


def sequential(cases: Callable[[int], Case], first: int, maximum: int, runs: int) -> Row:
    """Count how often sampling in looks says "within" or "outside" if the true change is the budget
    itself; both are errors then.
    """
    said = {"within": 0, "outside": 0, "undecided": 0}
    for r in range(runs):
        case = cases(r)
        x, y = case.draw(maximum, np.random.default_rng((r, maximum)))
        order = np.random.default_rng(r).permutation(maximum)
        for n, level in plan_looks(first, maximum, 0.95):
            part = order[:n]
            a, b = estimate(case.reference, x[part]), estimate(case.reference, y[part])
            state = Verdict(distance_change(a, b, level), abs(case.change), n).state
            if state != "undecided":
                break
        said[state] += 1
    shares = {state: count / runs for state, count in said.items()}
    return {"first look": first, "last look": maximum, "runs": runs, **shares}


def photos(folder: Path) -> Iterator[tuple[str, Case]]:
    """Yield cases of Lite0 features at 128 px, 128 directions: training photos are the reference; a
    blurred test photo is full precision.
    """

    def jpeg(pixels: np.ndarray) -> np.ndarray:
        out = BytesIO()
        Image.fromarray(pixels).save(out, "jpeg", quality=50)
        return np.asarray(Image.open(out).convert("RGB"))

    network, rng = feature_network("efficientnet-lite0"), np.random.default_rng(0)
    real, sharp = (load(folder, 32, split=s)[0].pixels[:10_000] for s in ("train", "test"))
    reference, test = build(network(real), network, "fashion-mnist-train"), blurred(sharp, 1)
    full = reference.project(network(test))
    for name, images in {
        "photos, noise 0.2/255": noisy(test, 0.2, rng),
        "photos, noise 1/255": noisy(test, 1, rng),
        "photos, JPEG 50": np.stack([jpeg(p) for p in test]),
    }.items():
        yield name, pool(reference.moments, full, reference.project(network(images)))


def on_photos(folder: Path, runs: int, resamples: int) -> Iterator[Row]:
    for name, case in photos(folder):
        for n in (500, 2000):
            few = resamples if n == 500 else 0
            yield row(name, lambda _, case=case: case, n, runs, few)  # type: ignore[misc]


def on_drawn(runs: int, resamples: int) -> Iterator[Row]:
    for dim, gap in ((32, 0.4), (128, 0.4), (128, 0.2)):
        for name, damage in DAMAGE.items():
            for n in (384, 500, 1000, 2000):
                yield row(
                    f"{dim} d, gap {gap}, {name}",
                    lambda r: drawn(dim, damage, r % 20, gap),  # noqa: B023
                    n,
                    runs,
                    resamples if n == 500 else 0,
                )


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument(
        "--resamples",
        type=int,
        default=60,
        help="of the bootstrap, which gets an eighth of the runs; 0: none",
    )
    parser.add_argument("--photos", type=Path, help="folder of Fashion-MNIST idx files")
    given = parser.parse_args()
    seeds, about = f"draws 0 to {given.runs - 1}", {"resamples": given.resamples}
    if given.photos:
        rows = followed(on_photos(given.photos, given.runs, given.resamples))
        report(given.json, "coverage", "photos", Part(rows, seeds, 1, about))
        return
    rows = followed(on_drawn(given.runs, given.resamples))
    report(given.json, "coverage", "drawn", Part(rows, seeds, 1, about))
    edge = sequential(lambda r: drawn(32, DAMAGE["near"], r % 20), 500, 4000, given.runs)
    report(given.json, "coverage", "on the edge of the budget", Part([edge], seeds))


if __name__ == "__main__":
    main()
