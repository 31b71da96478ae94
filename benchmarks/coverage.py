"""Do the intervals of edgegen/evidence/intervals.py hold? Coverage of known truths, beside the
bootstrap.

    python benchmarks/coverage.py                    # drawn populations: about 5 CPU minutes
    python benchmarks/coverage.py --photos FOLDER
        Fashion-MNIST idx files: EfficientNet-Lite0 features of damaged photos

One line a case: dimensions, pairs, damage; true change and its 95 % half-width; share of runs whose
interval holds the truth, for the infinitesimal jackknife (at 95 % and 99 %), the paired percentile
and basic bootstrap, and the distance itself; then how often the sequential comparison says "within"
when the true change sits exactly on the edge of the budget.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from edgegen.core.verdict import Verdict
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.intervals import distance_change, estimate
from edgegen.evidence.looks import plan_looks

DAMAGE = {"lossless": 0.005, "near": 0.02, "damaged": 0.15}
CLASSES = 10
Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass
class Case:
    """A reference, the exact moments of two populations, and a way to draw n pairs from them."""

    reference: Moments
    full: Moments
    other: Moments
    draw: Draw

    @property
    def change(self) -> float:
        return frechet(self.other, self.reference) / frechet(self.full, self.reference) - 1


def drawn(dim: int, damage: float, seed: int, gap: float = 0.4) -> Case:
    """Ten heavy-tailed clusters with a 1/f spectrum; the other model is an affine map of them plus
    its own noise.
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
    """The pairs at hand are the whole population; runs draw from them with replacement."""

    def draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        rows = rng.integers(len(full), size=n)
        return full[rows], other[rows]

    def exact(x: np.ndarray) -> Moments:
        return Moments(x.mean(0, np.float64), np.cov(x.T, bias=True), 0)

    return Case(reference, exact(full), exact(other), draw)


def bootstrap(
    case: Case, x: np.ndarray, y: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[bool, bool]:
    """Whether the 95 % percentile and basic intervals of `resamples` paired resamples hold the
    truth.
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


def row(name: str, cases: Callable[[int], Case], n: int, runs: int, resamples: int) -> None:
    """Print one line of the table; run r draws from cases(r)."""
    held, halves, changes, boots = [], [], [], []
    for r in range(runs):
        case, rng = cases(r), np.random.default_rng((r, n))
        x, y = case.draw(n, rng)
        a, b = estimate(case.reference, x), estimate(case.reference, y)
        at95, at99, own = distance_change(a, b), distance_change(a, b, 0.99), a.interval()
        truth, distance = case.change, frechet(case.full, case.reference)
        held.append(
            (
                at95.low <= truth <= at95.high,
                at99.low <= truth <= at99.high,
                own.low <= distance <= own.high,
            )
        )
        halves.append((at95.high - at95.low) / 2)
        changes.append(abs(truth))
        if resamples and r < max(runs // 8, 1):
            boots.append(bootstrap(case, x, y, resamples, rng))
    mean = [f"{100 * v:5.1f}" for v in np.mean(held, 0)]
    boot = [f"{100 * v:5.1f}" for v in np.mean(boots, 0)] if boots else ["    -"] * 2
    print(
        f"| {name} | {n} | {100 * np.median(changes):.2f} % | {100 * np.median(halves):.2f} % | "
        f"{mean[0]} | {mean[1]} "
        f"| {boot[0]} | {boot[1]} | {mean[2]} |",
        flush=True,
    )


def sequential(cases: Callable[[int], Case], first: int, maximum: int, runs: int) -> None:
    """How often sampling in looks says "within" or "outside" when the true change is the budget
    itself: both are errors here.
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
    share = ", ".join(f"{k} {100 * v / runs:.1f} %" for k, v in said.items())
    print(
        f"\ntrue change on the edge of the budget, looks from {first} to {maximum} pairs, {runs} "
        f"runs: {share}"
    )


def photos(folder: Path) -> list[tuple[str, Case]]:
    """Lite0 features at 128 px, 128 directions: training photos are the reference; a blurred test
    photo is full precision.
    """
    from PIL import Image, ImageFilter

    from edgegen.evidence.features import feature_network
    from edgegen.evidence.reference import build

    def pictures(part: str) -> np.ndarray:  # 10,000 photos of 28 x 28 px, padded to 32
        raw = np.frombuffer(
            gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()),
            np.uint8,
            offset=16,
        )
        grey = np.pad(raw.reshape(-1, 28, 28)[:10_000], ((0, 0), (2, 2), (2, 2)))
        return np.repeat(grey[..., None], 3, axis=3)

    def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
        out = BytesIO()
        Image.fromarray(pixels).save(out, "jpeg", quality=quality)
        return np.asarray(Image.open(out).convert("RGB"))

    network = feature_network("efficientnet-lite0")
    reference = build(network(pictures("train")), network, "fashion-mnist-train")
    test = np.stack(
        [
            np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(1)))
            for p in pictures("t10k")
        ]
    )
    rng = np.random.default_rng(0)
    others = {
        "photos, noise 0.2/255": np.rint(test + 0.2 * rng.normal(size=test.shape))
        .clip(0, 255)
        .astype(np.uint8),
        "photos, noise 1/255": np.rint(test + rng.normal(size=test.shape))
        .clip(0, 255)
        .astype(np.uint8),
        "photos, JPEG 50": np.stack([jpeg(p, 50) for p in test]),
    }
    full = reference.project(network(test))
    return [
        (name, pool(reference.moments, full, reference.project(network(images))))
        for name, images in others.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument(
        "--resamples",
        type=int,
        default=60,
        help="of the bootstrap, which gets an eighth of the runs; 0: none",
    )
    parser.add_argument("--photos", type=Path, help="folder of Fashion-MNIST idx files")
    chosen = parser.parse_args()
    print(
        "| case | pairs | true change | half-width | jackknife 95 | jackknife 99 | percentile 95 | "
        "basic 95 | distance 95 |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    if chosen.photos:
        for name, case in photos(chosen.photos):
            for n in (500, 2000):
                row(
                    name,
                    lambda r, case=case: case,  # type: ignore[misc]
                    n,
                    chosen.runs,
                    chosen.resamples if n == 500 else 0,
                )
        return
    for dim, gap in ((32, 0.4), (128, 0.4), (128, 0.2)):
        for name, damage in DAMAGE.items():
            for n in (384, 500, 1000, 2000):
                few = chosen.resamples if n == 500 else 0
                row(
                    f"{dim} d, gap {gap}, {name}",
                    lambda r: drawn(dim, damage, r % 20, gap),  # noqa: B023
                    n,
                    chosen.runs,
                    few,
                )
    sequential(lambda r: drawn(32, DAMAGE["near"], r % 20), 500, 4000, chosen.runs)


if __name__ == "__main__":
    main()
