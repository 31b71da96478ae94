"""What few pairs can say without a reference is computed: exactly for ruined pairs, in seconds, and
by simulation for the other limits, in minutes.

    python -m benchmarks few_pairs
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from _result import Part, Row, arguments_of, followed, report

from edgegen.evidence.limits import skewed_interval
from edgegen.evidence.movement import along_main, apart, moved
from edgegen.evidence.terms import PIXEL_PAIRS, Terms, level

RUNS = 1000


def ruined() -> Iterator[Row]:
    """Compute exactly which share of ruined pairs can be excluded if none is seen, and how often
    half of it passes.
    """
    for most in (64, 128, 256, 512, 1024):
        looks = Terms(0.02, most).tail_looks(level(0))
        limit = float(np.ceil(looks.least * 1e4) / 1e4)
        half = Terms(0.02, most, ruined=limit).tail_looks(level(0)).passing(limit / 2)
        yield {
            "max images": most,
            "pairs of pixels": PIXEL_PAIRS * most,
            "ruined at most": limit,
            "passes at half": half,
        }


def limits(runs: int) -> Iterator[Row]:
    """Simulate features in 256 dimensions whose true figures are exactly at their limits: the goal
    is that at most 2.5 % of runs end below.
    """
    for pairs in (64, 256):
        for name, share in (("in all", 1.0), ("in 1 of 4", 0.25), ("in 1 of 20", 0.05)):
            found = np.array([few(pairs, share, run) for run in range(runs)])
            wrong, median = (found < 1).mean(0).tolist(), float(np.median(found[:, 2]))
            names = ("PSNR wrongly", "moved wrongly", "apart wrongly")
            shares = dict(zip(names, wrong, strict=True))
            yield {"pairs": pairs, "damage": name, **shares, "apart's median": median}


def few(pairs: int, share: float, run: int) -> tuple[float, float, float]:
    """Return the upper limits of the mean squared error, of moved and of apart, each over the
    truth.

    Damage is in this share of pairs, all in one direction, with a random strength.
    """
    rng = np.random.default_rng(run)
    scale = 1 / np.sqrt(1 + np.arange(256))
    full = rng.normal(size=(pairs, 256)) * scale
    hit = rng.random(pairs) < share
    strength = hit * rng.exponential(1, pairs)
    # the mean square of an exponential is 2
    spread, square = 2 * float(np.square(scale).sum()), 2 * share
    other = full.copy()
    other[:, 0] += strength
    squares = np.square(strength)
    error = skewed_interval(float(squares.mean()), squares - squares.mean(), level(0))
    far = far_apart(share) / spread
    return (
        error.high / square,
        moved(full, other, level(0)).high * spread / square,
        apart(*along_main(full, other), level(0)).high / far,
    )


def far_apart(share: float) -> float:
    """Return the squared Frechet distance of a normal feature to itself with that damage."""
    mean, variance = share, 2 * share - share**2
    return float(mean**2 + (np.sqrt(1 + variance) - 1) ** 2)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    given = parser.parse_args()
    report(given.json, "few_pairs", "ruined", Part(list(ruined()), "none: exact"))
    part = Part(followed(limits(given.runs)), f"draws 0 to {given.runs - 1}")
    report(given.json, "few_pairs", "limits", part)


if __name__ == "__main__":
    main()
