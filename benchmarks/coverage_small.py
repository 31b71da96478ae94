"""Do the intervals of edgegen/evidence/small_sample_distance.py and memory.py hold with 20 to 200
held-out photos?

    python benchmarks/coverage_small.py                    # drawn populations: about 4 CPU minutes
    python benchmarks/coverage_small.py --photos FOLDER
        photos at 32 px, EfficientNet-Lite0 features: about 5 CPU minutes
    python benchmarks/coverage_small.py --attack
        the membership attack's AUC: about 1 CPU minute
    python benchmarks/coverage_small.py --copies FOLDER
        which copies of photos are called near-copies: about 1 CPU minute

Populations are pools that runs draw from with replacement, so the truth is exact; a run has 512
images of a generator before and after a training, from the same seeds, and m photos. One line a
case: distances with their 95 % half-widths, and the share of runs whose interval holds the truth:
KID, its change, its ratio, and FD along m / 4 main directions of 400 training photos, its ratio,
and how far FD is off on average with and without correction. For 100 photos also what others do:
the bootstrap of both sets (percentile, basic) and the mean over 100 subsets of half the photos +-
1.96 deviations, or +- 1.96 deviations / 10.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgegen.core.verdict import Interval
from edgegen.errors import EdgegenError
from edgegen.evidence import memory, small_sample_distance
from edgegen.evidence.distances import Moments, frechet, kernel_distance

IMAGES, TRAIN, POOL = 512, 400, 2000
COUNTS = (20, 50, 100, 200)


@dataclass
class World:
    """Features of a population of photos (p, d), and of a generator's images before and after, seed
    by seed (q, d) each.
    """

    photos: np.ndarray
    before: np.ndarray
    after: np.ndarray


def drawn(dim: int, gap: float, seed: int = 0) -> World:
    """Ten clusters of heavy tails with a 1/f spectrum, cut at 0 as pooled features are; gap: of the
    generator after training.
    """
    rng = np.random.default_rng((seed, dim))
    spectrum = 1 / np.arange(1, dim + 1)
    scale = np.sqrt(dim * spectrum / spectrum.sum()) * np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    centres = rng.normal(size=(10, dim)) @ scale.T
    turn, shift = rng.normal(size=(dim, dim)) / np.sqrt(dim), rng.normal(size=dim)

    def draw() -> np.ndarray:
        z = rng.normal(size=(POOL, dim)) * np.sqrt(rng.gamma(3, 1 / 3, size=(POOL, 1)))
        return centres[rng.integers(10, size=POOL)] + z @ scale.T

    def bent(x: np.ndarray, gap: float) -> np.ndarray:
        return (x + gap * (x @ turn.T + shift)).clip(-0.5) + 0.5

    seeds = draw()
    return World(bent(draw(), 0), bent(seeds, gap + 0.2), bent(seeds, gap))


def pictured(folder: Path) -> list[tuple[str, World]]:
    """Furniture-like photos; the "generator" turns, moves, blurs photos and adds noise, before
    training more than after.
    """
    from PIL import Image, ImageFilter

    from edgegen.evidence.features import feature_network
    from edgegen.training.data import load

    pixels, network, rng = (
        load(folder, 32)[0].pixels,
        feature_network("efficientnet-lite0"),
        np.random.default_rng(0),
    )
    which, turns, moves = (
        rng.integers(len(pixels), size=POOL),
        rng.normal(size=POOL),
        rng.integers(-2, 3, (POOL, 2)),
    )
    noise = rng.normal(size=(POOL, *pixels.shape[1:]))

    def made(damage: float) -> np.ndarray:
        out = []
        for k, photo in enumerate(which):
            moved = Image.fromarray(pixels[photo]).rotate(
                6 * damage * turns[k],
                Image.Resampling.BICUBIC,
                fillcolor="white",
                translate=(int(moves[k, 0]), int(moves[k, 1])),
            )
            out.append(
                np.asarray(moved.filter(ImageFilter.GaussianBlur(0.4 * damage)))
                + 3 * damage * noise[k]
            )
        return network(np.rint(np.stack(out)).clip(0, 255).astype(np.uint8))

    real, bad, better, good = network(pixels), made(4), made(1.2), made(1)
    return [
        ("photos, far to near", World(real, bad, good)),
        ("photos, near to nearer", World(real, better, good)),
        ("photos, near to perfect", World(real, good, real[which])),
    ]


def exact_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Squared MMD of two pools taken as whole populations: pairs of an image with itself count
    too.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return sum(
            float(((p[k : k + 500] @ q.T / p.shape[1] + 1) ** 3).sum())
            for k in range(0, len(p), 500)
        ) / (len(p) * len(q))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def exact_frechet(x: np.ndarray, y: np.ndarray) -> float:
    return frechet(*(Moments(p.mean(0), np.cov(p.T, bias=True), 0) for p in (x, y)))


def holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def ratio_holds(
    before: small_sample_distance.Distance, after: small_sample_distance.Distance, truth: float
) -> float:
    """NaN where the ratio is refused."""
    try:
        return holds(small_sample_distance.ratio(before, after), truth)
    except EdgegenError:
        return np.nan


def covered(column: np.ndarray) -> str:
    """Per cent of the runs that gave an interval; then those that were refused one."""
    given = column[~np.isnan(column)]
    share = f"{100 * given.mean():.1f}" if 2 * len(given) > len(column) else "-"
    return (
        share
        if len(given) == len(column)
        else f"{share} ({100 - 100 * len(given) / len(column):.0f} % refused)"
    )


def others(x: np.ndarray, y: np.ndarray, truth: float, rng: np.random.Generator) -> list[bool]:
    """Do percentile, basic, subsets +- deviations and subsets +- standard errors hold the truth?"""
    found, half = kernel_distance(x, y), len(y) // 2
    low, high = np.quantile(
        [
            kernel_distance(
                x[rng.integers(len(x), size=len(x))], y[rng.integers(len(y), size=len(y))]
            )
            for _ in range(60)
        ],
        (0.025, 0.975),
    )
    parts = [
        kernel_distance(x[rng.permutation(len(x))[:half]], y[rng.permutation(len(y))[:half]])
        for _ in range(100)
    ]
    off, deviation = abs(np.mean(parts) - truth), np.std(parts)
    return [
        bool(b)
        for b in (
            low <= truth <= high,
            2 * found - high <= truth <= 2 * found - low,
            off <= 1.96 * deviation,
            off <= 0.196 * deviation,
        )
    ]


def row(name: str, world: World, photos: int, runs: int, resampled: int) -> None:
    """Print one line."""
    first, last = exact_kernel(world.before, world.photos), exact_kernel(world.after, world.photos)
    along: list[tuple[small_sample_distance.Directions, float, float]] = []
    for k in range(8):  # the truth of FD belongs to the training photos that chose the directions
        rows = np.random.default_rng((k, TRAIN)).integers(len(world.photos), size=TRAIN)
        chosen = small_sample_distance.directions(world.photos[rows], photos)
        before, after, real = (chosen(part) for part in (world.before, world.after, world.photos))
        along.append((chosen, exact_frechet(before, real), exact_frechet(after, real)))
    held, halves, off, rivals = [], [], [], []
    for r in range(runs):
        rng = np.random.default_rng((r, photos))
        seeds, shown = (
            rng.integers(len(world.after), size=IMAGES),
            rng.integers(len(world.photos), size=photos),
        )
        x, y, real = world.before[seeds], world.after[seeds], world.photos[shown]
        chosen, start, end = along[r % len(along)]
        a, b = small_sample_distance.kernel(x, real), small_sample_distance.kernel(y, real)
        c, d = (
            small_sample_distance.frechet(x, real, chosen),
            small_sample_distance.frechet(y, real, chosen),
        )
        own, step, fd = b.interval(), small_sample_distance.change(a, b), d.interval()
        held.append(
            (
                holds(own, last),
                holds(step, last - first),
                ratio_holds(a, b, last / first),
                holds(fd, end),
                ratio_holds(c, d, end / start),
            )
        )
        halves.append((own.high - b.value, step.high - step.value, fd.high - d.value))
        off.append(
            (end, frechet(Moments.of(chosen(y)), Moments.of(chosen(real))) - end, d.value - end)
        )
        if r < resampled:
            rivals.append(others(y, real, last, rng))
    cover = [covered(np.array(column, np.float64)) for column in zip(*held, strict=True)]
    wide, (exact, plain, better) = np.median(halves, 0), np.mean(off, 0)
    print(
        f"| {name} | {photos} | {last:.3f} +- {wide[0]:.3f} | {cover[0]} | {last - first:.3f} +- "
        f"{wide[1]:.3f} | {cover[1]} "
        f"| {cover[2]} | {exact:.1f} +- {wide[2]:.1f} | {cover[3]} | {cover[4]} | {plain:+.1f} | "
        f"{better:+.1f} |",
        flush=True,
    )
    if rivals:
        said = " / ".join(f"{100 * v:.0f}" for v in np.mean(rivals, 0))
        print(
            f"  {resampled} runs: percentile / basic / subsets +- 1.96 deviations / +- 0.196 "
            f"deviations: {said} %",
            flush=True,
        )


def attacks(runs: int) -> None:
    """One line a case: photos, and the share of the 512 images that are copies of training photos
    with noise.
    """
    print(
        "| training photos | held out | copies | noise | AUC | half-width | AUC 95 "
        "|\n|---|---|---|---|---|---|---|"
    )
    for train, held_out in ((80, 20), (400, 20), (400, 50), (400, 100), (400, 200)):
        for share, noise in ((0.0, 0.0), (0.1, 0.1), (0.3, 0.1), (1.0, 0.5), (1.0, 0.1)):
            found = []
            for r in range(runs):
                rng = np.random.default_rng((r, train, held_out))
                rows = rng.standard_t(5, size=(train + held_out + IMAGES, 24))
                photos, others, made = (
                    rows[:train],
                    rows[train : train + held_out],
                    rows[train + held_out :],
                )
                copied = rng.random(IMAGES) < share
                made[copied] = photos[rng.integers(train, size=copied.sum())] + noise * rng.normal(
                    size=(copied.sum(), 24)
                )
                found.append(memory.attack(photos, others, made))
            truth = float(np.mean([f.value for f in found]))
            half, cover = (
                np.median([f.high - f.low for f in found]) / 2,
                np.mean([holds(f, truth) for f in found]),
            )
            print(
                f"| {train} | {held_out} | {share:.0%} | {noise} | {truth:.3f} | {half:.3f} | "
                f"{100 * cover:.1f} |",
                flush=True,
            )


def copies(folder: Path) -> None:
    """One line a way to spoil a photo: share of 200 that are found as copies of themselves, by each
    criterion.
    """
    from PIL import Image, ImageFilter

    from edgegen.core.image_hash import differing_bits, looks, signs
    from edgegen.evidence.features import feature_network
    from edgegen.training.data import load

    pixels, network, rng = (
        load(folder, 32)[0].pixels,
        feature_network("efficientnet-lite0"),
        np.random.default_rng(0),
    )

    def noise(photo: np.ndarray, levels: float) -> np.ndarray:
        return np.rint(photo + levels * rng.normal(size=photo.shape)).clip(0, 255).astype(np.uint8)

    def blur(photo: np.ndarray, sigma: float) -> np.ndarray:
        return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma)))

    spoilt: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "noise 1": lambda p: noise(p, 1),
        "noise 3": lambda p: noise(p, 3),
        "noise 8": lambda p: noise(p, 8),
        "blur 0.4": lambda p: blur(p, 0.4),
        "blur 0.8": lambda p: blur(p, 0.8),
        "moved by 1": lambda p: np.roll(p, 1, 1),
    }
    some = rng.permutation(len(pixels))[:200]
    own = network(pixels[some])
    print(
        "| spoilt by | hash, margin 0 | hash, margin 2 | features | look | near-copy "
        "|\n|---|---|---|---|---|---|"
    )
    for name, spoil in spoilt.items():
        made = np.stack([spoil(photo) for photo in pixels[some]])
        plain, near = (
            np.diag(differing_bits(signs(made, m), signs(pixels[some], m))) <= memory.BITS
            for m in (0, memory.MARGIN)
        )
        theirs = network(made)
        cosine = (theirs * own).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(
            own, axis=1
        ) >= memory.COSINE
        look = (looks(made) * looks(pixels[some])).sum(1) >= memory.LOOK
        shares = (plain, near, cosine, look, near & (cosine | look))
        print(
            f"| {name} | " + " | ".join(f"{part.mean():.0%}" for part in shares) + " |", flush=True
        )
    order = rng.permutation(len(pixels))
    half, other = (
        memory.Images(pixels[part], network(pixels[part])) for part in (order[::2], order[1::2])
    )
    print(
        "of one half of the photos, near-copies of the other half: "
        f"{len(memory.near_copies(half, other))} of {len(half)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=240)
    parser.add_argument(
        "--resampled",
        type=int,
        default=30,
        help="runs, of 100 photos, that also get the bootstrap and subsets",
    )
    parser.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--copies", type=Path, help="folder of photos")
    chosen = parser.parse_args()
    if chosen.copies:
        copies(chosen.copies)
        return
    if chosen.attack:
        attacks(chosen.runs)
        return
    print(
        "| case | photos | KID | KID 95 | change | change 95 | ratio 95 | FD | FD 95 | FD ratio 95 "
        "| plain FD off | FD off |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    worlds = (
        pictured(chosen.photos)
        if chosen.photos
        else [(f"drawn, gap {gap}", drawn(256, gap)) for gap in (0.0, 0.1, 0.3)]
    )
    for name, world in worlds:
        for photos in COUNTS:
            row(name, world, photos, chosen.runs, chosen.resampled if photos == 100 else 0)


if __name__ == "__main__":
    main()
