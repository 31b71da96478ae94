"""The intervals of edgegen/evidence/small_sample_distance.py and memory.py are checked with 20 to
200 held-out photos.

    python -m benchmarks coverage_small                    # drawn populations: about 4 CPU minutes
    python -m benchmarks coverage_small --photos FOLDER
        photos at 32 px, EfficientNet-Lite0 features: about 5 CPU minutes
    python -m benchmarks coverage_small --attack
        the membership attack's AUC: about 1 CPU minute
    python -m benchmarks coverage_small --copies FOLDER
        which copies of photos are called near-copies: about 1 CPU minute

Populations are pools that runs draw from with replacement, so the truth is exact; a run has 512
images of a generator before and after a training, from the same seeds, and m photos. A row is a
case: distances with their 95 % half-widths, and the share of runs whose interval holds the truth:
KID, its change, its ratio, and FD along m / 4 main directions of 400 training photos, its ratio,
and how far FD is off on average with and without correction. For 100 photos also what others do:
the bootstrap of both sets (percentile, basic) and the mean over 100 subsets of half the photos +-
1.96 deviations, or +- 1.96 deviations / 10. Of an interval that is refused in some runs, "refused"
is their share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measure import holds
from _pictures import blurred, levels, noisy
from _result import Part, Row, arguments_of, followed, report
from PIL import Image, ImageFilter

from edgegen.core.image_hash import differing_bits, looks, signs
from edgegen.errors import EdgegenError
from edgegen.evidence import memory, small_sample_distance
from edgegen.evidence.distances import Moments, frechet, kernel_distance
from edgegen.evidence.features import feature_network
from edgegen.training.data import load

IMAGES, TRAIN, POOL = 512, 400, 2000
COUNTS = (20, 50, 100, 200)
# other methods whose intervals are compared with ours: see `others`
RIVALS = ("percentile", "basic", "subsets +- 1.96 deviations", "subsets +- 0.196 deviations")


@dataclass
class World:
    """Hold features of a population of photos (p, d), and of a generator's images before and after
    training, seed by seed, (q, d) each.
    """

    photos: np.ndarray
    before: np.ndarray
    after: np.ndarray


def drawn(dim: int, gap: float, seed: int = 0) -> World:
    """Draw ten heavy-tailed clusters with a 1/f spectrum, cut at 0 like pooled features; `gap` is
    that of the generator after training.
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
    """Make worlds from a folder of photos; the "generator" turns, moves and blurs photos and adds
    noise, more before training than after.
    """
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
        return network(levels(np.stack(out)))

    real, bad, better, good = network(pixels), made(4), made(1.2), made(1)
    return [
        ("photos, far to near", World(real, bad, good)),
        ("photos, near to nearer", World(real, better, good)),
        ("photos, near to perfect", World(real, good, real[which])),
    ]


def exact_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Return the squared MMD of two pools taken as whole populations: pairs of an image with itself
    count too.
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


def ratio_holds(
    before: small_sample_distance.Distance, after: small_sample_distance.Distance, truth: float
) -> float:
    """Return whether the ratio's interval holds the truth; NaN if the ratio is refused."""
    try:
        return holds(small_sample_distance.ratio(before, after), truth)
    except EdgegenError:
        return np.nan


def covered(name: str, column: np.ndarray) -> Row:
    """Return the share of the runs with an interval in which it holds, None if most runs had none;
    and the share of runs that were refused one, if any.
    """
    given = column[~np.isnan(column)]
    share = float(given.mean()) if 2 * len(given) > len(column) else None
    refused = 1 - len(given) / len(column)
    return {name: share, **({f"{name}, refused": refused} if refused else {})}


def others(x: np.ndarray, y: np.ndarray, truth: float, rng: np.random.Generator) -> list[bool]:
    """Return whether percentile, basic, subsets +- deviations and subsets +- standard errors hold
    the truth.
    """
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


def directions_of(
    world: World, photos: int
) -> list[tuple[small_sample_distance.Directions, float, float]]:
    """Return the directions of eight training sets, each with the true FD before and after, which
    depends on the photos that chose the directions.
    """
    along = []
    for k in range(8):
        rows = np.random.default_rng((k, TRAIN)).integers(len(world.photos), size=TRAIN)
        chosen = small_sample_distance.directions(world.photos[rows], photos)
        before, after, real = (chosen(part) for part in (world.before, world.after, world.photos))
        along.append((chosen, exact_frechet(before, real), exact_frechet(after, real)))
    return along


def row(name: str, world: World, photos: int, runs: int, resampled: int) -> Row:
    first, last = exact_kernel(world.before, world.photos), exact_kernel(world.after, world.photos)
    along = directions_of(world, photos)
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
    names = ("KID 95", "change 95", "ratio 95", "FD 95", "FD ratio 95")
    cover = [
        covered(what, np.array(column, np.float64))
        for what, column in zip(names, zip(*held, strict=True), strict=True)
    ]
    wide, (exact, plain, better) = np.median(halves, 0).tolist(), np.mean(off, 0).tolist()
    own_ways = dict(zip(RIVALS, np.mean(rivals, 0).tolist(), strict=True)) if rivals else {}
    return {
        "case": name,
        "photos": photos,
        "KID": last,
        "KID, half": wide[0],
        **cover[0],
        "change": last - first,
        "change, half": wide[1],
        **cover[1],
        **cover[2],
        "FD": exact,
        "FD, half": wide[2],
        **cover[3],
        **cover[4],
        "plain FD off": plain,
        "FD off": better,
        **own_ways,
    }


def attacks(runs: int) -> Iterator[Row]:
    """Yield a row for each case: photos, and the share of the 512 images that are copies of
    training photos with noise.
    """
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
            yield {
                "training photos": train,
                "held out": held_out,
                "copies": share,
                "noise": noise,
                "AUC": truth,
                "half-width": float(np.median([f.high - f.low for f in found])) / 2,
                "AUC 95": float(np.mean([holds(f, truth) for f in found])),
            }


def copies(folder: Path) -> Iterator[Row]:
    """Yield a row for each way to damage a photo: the share of 200 photos that are found as copies
    of themselves, by each criterion.
    """
    pixels, network, rng = (
        load(folder, 32)[0].pixels,
        feature_network("efficientnet-lite0"),
        np.random.default_rng(0),
    )
    spoilt: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "noise 1": lambda p: noisy(p, 1, rng),
        "noise 3": lambda p: noisy(p, 3, rng),
        "noise 8": lambda p: noisy(p, 8, rng),
        "blur 0.4": lambda p: blurred(p, 0.4),
        "blur 0.8": lambda p: blurred(p, 0.8),
        "moved by 1": lambda p: np.roll(p, 1, 2),
    }
    some = rng.permutation(len(pixels))[:200]
    own = network(pixels[some])
    for name, spoil in spoilt.items():
        made = spoil(pixels[some])
        plain, near = (
            np.diag(differing_bits(signs(made, m), signs(pixels[some], m))) <= memory.BITS
            for m in (0, memory.MARGIN)
        )
        theirs = network(made)
        cosine = (theirs * own).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(
            own, axis=1
        ) >= memory.COSINE
        look = (looks(made) * looks(pixels[some])).sum(1) >= memory.LOOK
        found = {
            "hash, margin 0": plain,
            "hash, margin 2": near,
            "features": cosine,
            "look": look,
            "near-copy": near & (cosine | look),
        }
        yield {"spoilt by": name, **{what: float(part.mean()) for what, part in found.items()}}


def halves(folder: Path) -> Row:
    """Count how many photos of one half are near-copies of the other half."""
    pixels, network = load(folder, 32)[0].pixels, feature_network("efficientnet-lite0")
    order = np.random.default_rng(0).permutation(len(pixels))
    half, other = (
        memory.Images(pixels[part], network(pixels[part])) for part in (order[::2], order[1::2])
    )
    return {"near-copies of the other half": len(memory.near_copies(half, other)), "of": len(half)}


def main() -> None:
    parser = arguments_of(__doc__)
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
    given = parser.parse_args()
    draws = f"draws 0 to {given.runs - 1}"
    if given.copies:
        part = Part(followed(copies(given.copies)), "draws of seed 0")
        report(given.json, "coverage_small", "copies", part)
        part = Part([halves(given.copies)], "draws of seed 0")
        report(given.json, "coverage_small", "copies, halves", part)
    elif given.attack:
        part = Part(followed(attacks(given.runs)), draws)
        report(given.json, "coverage_small", "attack", part)
    else:
        rows = followed(rows_of(given.photos, given.runs, given.resampled))
        part = Part(rows, draws, 1, {"resampled": given.resampled})
        report(given.json, "coverage_small", "photos" if given.photos else "drawn", part)


def rows_of(folder: Path | None, runs: int, resampled: int) -> Iterator[Row]:
    """Yield the rows of a folder's photos, or of drawn populations without a folder."""
    worlds = (
        ((f"drawn, gap {gap}", drawn(256, gap)) for gap in (0.0, 0.1, 0.3))
        if folder is None
        else pictured(folder)
    )
    for name, world in worlds:
        for photos in COUNTS:
            yield row(name, world, photos, runs, resampled if photos == 100 else 0)


if __name__ == "__main__":
    main()
