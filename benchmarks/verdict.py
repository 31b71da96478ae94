"""The verdict is tried: attacks on it, its power, its wrong "within" and its coverage, simulated.

    python -m benchmarks verdict                        # the share of ruined pairs: seconds, exact
    python -m benchmarks verdict --images SOURCE        # attacks on a generator's images (torch)
    python -m benchmarks verdict --images SOURCE --edge # true changes exactly at the edge

Attacks are laid over full-precision images of SOURCE (a zoo name), and judged by all gates as an
export is; each run takes its seeds from another place. The goal is that none passes, in 90 % of
runs and more. At the edge, pairs are drawn with replacement from --pool pairs, which are then the
whole population, so truths are exact; the goal is a wrong "within" in 2.5 % of runs at most. Of
ruined pairs, 0.5 % are to pass in 1 % of runs at most, and 0.05 % by 6,000 pairs in 80 % at least.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from _measure import holds
from _pictures import blurred, levels, noisy
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.images import to_uint8
from edgegen.core.seeds import BENCHMARKS
from edgegen.core.spec import Array
from edgegen.core.verdict import Verdict
from edgegen.evidence import reference
from edgegen.evidence.classes import class_names
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.full_side import FullSide, Images
from edgegen.evidence.intervals import distance_change, estimate
from edgegen.evidence.judge import Judgement, judge
from edgegen.evidence.looks import plan_looks
from edgegen.evidence.movement import apart, moved
from edgegen.evidence.reference import Reference
from edgegen.evidence.shares import upper_limit
from edgegen.evidence.terms import Terms, Trial, level
from edgegen.workflows.fast_features import fast_features
from edgegen.workflows.generators import LoadedGenerator, load_generator, torch_pipeline

Spoil = Callable[[np.ndarray], np.ndarray]  # images (n, h, w, 3) uint8 -> the same, damaged


def noise(sigma: float) -> Spoil:
    """Return an attack that adds the same noise in every run, so that its outcome does not depend
    on luck.
    """
    return lambda x: noisy(x, sigma, np.random.default_rng(1))


def blur(sigma: float) -> Spoil:
    return lambda x: blurred(x, sigma)


def checkerboard(height: float) -> Spoil:
    def add(x: np.ndarray) -> np.ndarray:
        sign = np.indices(x.shape[1:3]).sum(0) % 2 * 2 - 1
        return levels(x + height * sign[None, :, :, None])

    return add


def patched(share: float, value: int) -> Spoil:
    """Return an attack that puts a square into the middle, with this share of the side."""

    def put(x: np.ndarray) -> np.ndarray:
        out, middle = x.copy(), x.shape[1] // 2
        half = max(1, round(x.shape[1] * share / 2))
        out[:, middle - half : middle + half, middle - half : middle + half] = value
        return out

    return put


def lower_half(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[:, x.shape[1] // 2 :] = 0
    return out


def dead_pixel(x: np.ndarray) -> np.ndarray:
    out = x.copy()
    out[:, x.shape[1] // 3, x.shape[2] // 3] = 255
    return out


def tint(x: np.ndarray) -> np.ndarray:
    return levels(x * np.array([1.12, 1.0, 0.9]))


@dataclass(frozen=True)
class Attack:
    """Damage every image, one in `every`, or those of one label."""

    name: str
    spoil: Spoil | None  # None takes the image of the next label instead
    every: int = 1
    label: int | None = None

    def hits(self, seeds: np.ndarray, classes: int) -> np.ndarray:
        """Return which seeds are hit, (n,) bool; they are spread over all labels."""
        if self.label is not None:
            return np.asarray(seeds % max(classes, 1) == self.label)
        if self.every == 1:
            return np.ones(len(seeds), bool)
        mixed = seeds.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return np.asarray((mixed >> np.uint64(33)) % np.uint64(self.every) == 0)


ATTACKS = (
    Attack("another label's image in 0.5 %", None, 200),
    Attack("lower half black in 0.5 %", lower_half, 200),
    Attack("black in 0.5 %", lambda x: x * 0, 200),
    Attack("noise alone in 0.5 %", noise(200), 200),
    Attack("negative in 0.5 %", lambda x: 255 - x, 200),
    Attack("mirrored in 1 %", lambda x: x[:, :, ::-1], 100),
    Attack("upside down in 0.5 %", lambda x: x[:, ::-1], 200),
    Attack("moved by 3 pixels in 0.5 %", lambda x: np.roll(x, 3, 2), 200),
    Attack("hole of a quarter in 0.5 %", patched(0.25, 0), 200),
    Attack("white square in 0.5 %", patched(0.2, 255), 200),
    Attack("grey in 0.5 %", lambda x: x * 0 + 128, 200),
    Attack("blur of 2 in 0.5 %", blur(2.0), 200),
    Attack("one label blurred by 0.6", blur(0.6), label=3),
    Attack("one label blurred by 1", blur(1.0), label=6),
    Attack("one label with noise of 12", noise(12), label=4),
    Attack("one label drawn as the next", None, label=1),
    Attack("one label darker by a tenth", lambda x: levels(x * 0.9), label=2),
    Attack("tint of one label", tint, label=0),
    Attack("+2 levels", lambda x: levels(x + 2.0)),
    Attack("+4 levels", lambda x: levels(x + 4.0)),
    Attack("red +4 levels", lambda x: levels(x + np.array([4.0, 0, 0]))),
    Attack("checkerboard of 1", checkerboard(1)),
    Attack("checkerboard of 3", checkerboard(3)),
    Attack("noise of 1", noise(1)),
    Attack("noise of 4", noise(4)),
    Attack("blur of 0.5", blur(0.5)),
    Attack("tint", tint),
    Attack("contrast of 0.97", lambda x: levels((x - 128.0) * 0.97 + 128)),
    Attack("dead pixel", dead_pixel),
    Attack("32 levels", lambda x: x // 8 * 8 + 4),
)


def signed(images: np.ndarray) -> Array:
    """Convert uint8 (n, h, w, 3) to a pipeline's form, (n, 3, h, w) in [-1, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


class Remembered:
    """Make each image of a pipeline and its features only once, because attacks share
    most of them.
    """

    def __init__(self, pipeline: Images, network: FeatureNetwork) -> None:
        self._pipeline, self._network = pipeline, network
        self.name, self.sha256 = network.name, network.sha256
        self.size, self.dim = network.size, network.dim
        self._images: dict[int, Array] = {}
        self._features: dict[bytes, Array] = {}

    def images(self, seeds: Sequence[int]) -> Array:
        """Return the same images as the pipeline."""
        if missing := [seed for seed in seeds if seed not in self._images]:
            self._images |= zip(missing, self._pipeline(missing), strict=True)
        return np.stack([self._images[seed] for seed in seeds])

    def __call__(self, images: np.ndarray) -> Array:
        """Return the same features as the network."""
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        fresh = {key: k for k, key in enumerate(keys) if key not in self._features}
        if fresh:
            made = self._network(images[list(fresh.values())])
            self._features |= zip(fresh, made, strict=True)
        return np.stack([self._features[key] for key in keys])

    def forget(self) -> None:
        self._images.clear()
        self._features.clear()


def attacked(full: Images, attack: Attack, classes: int) -> Images:
    """Return a pipeline of full precision's images with the attack's damage."""

    def images(seeds: Sequence[int]) -> Array:
        hit = attack.hits(np.array(list(seeds), np.int64), classes)
        out = to_uint8(full(seeds))
        if hit.any() and attack.spoil is not None:
            out[hit] = attack.spoil(out[hit])
        elif hit.any():
            out[hit] = to_uint8(full([seed + 1 for seed, h in zip(seeds, hit, strict=True) if h]))
        return signed(out)

    return images


@dataclass(frozen=True)
class Subject:
    """Hold a generator whose images are attacked."""

    source: LoadedGenerator
    memory: Remembered
    reference: Reference
    side: FullSide

    @classmethod
    def of(cls, name: str) -> Subject:
        source = load_generator(name)
        stored = reference.read(source.reference)
        network = fast_features(feature_network(stored.network, None, stored.size))
        pipeline = torch_pipeline(source.generator)
        classes = class_names(source.about, source.generator.latent, BENCHMARKS.first)
        memory = Remembered(pipeline, network)
        side = FullSide(memory.images, memory, stored, BENCHMARKS.first, classes=classes)
        return cls(source, memory, stored, side)

    def judged(self, attacks: Sequence[Attack], terms: Terms, run: int) -> list[Judgement]:
        """Judge each attack on the seeds of that run."""
        start = BENCHMARKS.first + run * terms.pixel_pairs
        side = self.side.from_seed(start)
        self.memory.forget()
        classes = len(self.side.classes)
        return [
            judge(
                side, attacked(self.memory.images, attack, classes), terms, Trial(start, level(0))
            )
            for attack in attacks
        ]


def attacks(subject: Subject, runs: int, terms: Terms, names: Sequence[str]) -> Iterator[Row]:
    chosen = [a for a in ATTACKS if not names or a.name in names]
    judged = [subject.judged(chosen, terms, run) for run in range(runs)]
    for attack, *found in zip(chosen, *judged, strict=True):
        closed = {name for one in found for name, state in one.states.items() if state != "within"}
        one = found[0].comparison
        yield {
            "attack": attack.name,
            "passes": sum(one.state == "within" for one in found),
            "runs": runs,
            "gates that do not": ", ".join(sorted(closed)),
            "FD change": one.verdict.change.value,
            "PSNR dB": one.psnr_db,
        }


def ruined() -> Iterator[Row]:
    looks = Terms(0.02, 4000).tail_looks(level(0))
    for share in (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01):
        yield {
            "ruined": share,
            "passes, of all exports": looks.passing(share),
            "by 6,000 pairs": looks.passing(share, 6000),
        }


def unseen() -> Iterator[Row]:
    for pairs in (64, 128, 256, 512, 1024, 1497, 2048, 4000):
        bound = upper_limit(0, pairs, 0.95)
        yield {"pairs without a ruined one": pairs, "bound at 95 %": bound}


def bounds() -> Iterator[Row]:
    """Measure how often the one-sided bound holds."""
    rng = np.random.default_rng(0)
    for share, pairs in ((0.0005, 4000), (0.002, 2066), (0.02, 512), (0.2, 128)):
        counts, times = np.unique(rng.binomial(pairs, share, 20_000), return_counts=True)
        held = [upper_limit(int(k), pairs, 0.95) >= share for k in counts]
        found = float((times * held).sum() / times.sum())
        yield {"share": share, "pairs": pairs, "one-sided bound at 95 % holds": found}


def edge_kinds(subject: Subject, count: int) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Return the projected features of the pool, and of the pool under damage of each kind, (count,
    k).
    """
    side, classes = subject.side, len(subject.side.classes)
    full = side.projected(count).astype(np.float64)
    pixels, seeds = side.pixels(0, count), np.arange(side.start, side.start + count)
    kinds: dict[str, np.ndarray] = {}
    for attack in (
        Attack("2 % copies of one image", lambda x: np.repeat(pixels[17:18], len(x), 0), 50),
        Attack("another label's image in 1 %", None, 100),
        Attack("tint of 12 %", tint, 8),
        Attack("+2 levels", lambda x: levels(x + 2.0)),
        Attack("noise of 0.5", noise(0.5)),
        Attack("one label blurred", blur(0.6), label=3),
        Attack("half black in 0.5 %", lower_half, 200),
    ):
        hit = np.flatnonzero(attack.hits(seeds, classes))
        out = full.copy()
        if attack.spoil is None:
            out[hit] = full[(hit + 1) % count]
        else:
            out[hit] = side.project(attack.spoil(pixels[hit]))
        kinds[attack.name] = out
    return full, kinds


def at_the_edge(subject: Subject, runs: int, count: int) -> Iterator[Row]:
    """Judge each kind of damage with its true value as budget, so that it is exactly at the edge
    and only the distance decides; then measure how often intervals hold the truth.
    """
    moments = replace(subject.reference.moments, kurtosis=None)
    full, kinds = edge_kinds(subject, count)
    first = frechet(Moments.of(full), moments)
    for name, other in kinds.items():
        truth = frechet(Moments.of(other), moments) / first - 1
        spread = 2 * float(np.square(full - full.mean(0)).sum(1).mean())
        still = float(np.square(other - full).sum(1).mean()) / spread
        far = frechet(Moments.of(full), Moments.of(other)) / spread
        said, held = [], np.zeros(3)
        for run in range(runs):
            rows = np.random.default_rng(run).integers(count, size=4000)
            for n, look in plan_looks(512, 4000, level(0)):
                x, y = full[rows[:n]], other[rows[:n]]
                a, b = estimate(moments, x), estimate(moments, y)
                state = Verdict(distance_change(a, b, look), abs(truth), n).state
                if n == 1024:
                    held += [
                        holds(distance_change(a, b), truth),
                        holds(moved(x, y, 0.95), still),
                        far <= apart(x, y, 0.95).high,
                    ]
                if state != "undecided" and n >= 1024:
                    break
            said.append(state)
        names = ("change 95", "moved 95", "apart")
        yield {
            "at the edge": name,
            "true change": truth,
            "within, wrongly": said.count("within") / runs,
            "outside": said.count("outside") / runs,
            **dict(zip(names, (held / runs).tolist(), strict=True)),
        }


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--images", metavar="SOURCE")
    parser.add_argument("--attack", action="append", default=[], help="these alone")
    parser.add_argument("--edge", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pool", type=int, default=6000)
    given = parser.parse_args()
    if given.images is None:
        for name, found in {"ruined": ruined(), "unseen": unseen(), "bounds": bounds()}.items():
            seeds = "draws of seed 0" if name == "bounds" else "none: exact"
            report(given.json, "verdict", name, Part(list(found), seeds))
        return
    subject = Subject.of(given.images)
    if given.edge:
        rows, about = at_the_edge(subject, given.runs, given.pool), {"pool": given.pool}
    else:
        rows, about = attacks(subject, given.runs, Terms(0.02, 4000, 35.0), given.attack), {}
    name = f"{'edge' if given.edge else 'attacks'}, {subject.source.name}"
    seeds = f"from {BENCHMARKS.first:,} on, each run from another place"
    about["runs"] = given.runs
    threads = torch.get_num_threads()
    report(given.json, "verdict", name, Part(followed(rows), seeds, threads, about))


if __name__ == "__main__":
    main()
