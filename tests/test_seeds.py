"""Seeds have one owner: ranges that never meet, and no seed constant anywhere else."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from edgegen.core.seeds import RANGES, SEARCH, VERDICTS, SeedRange
from edgegen.errors import UsageError
from edgegen.evidence.terms import ERROR, MOST_PAIRS, PIXEL_PAIRS, Terms, level, trial

ROOT = Path(__file__).resolve().parents[1]


def test_no_two_purposes_share_a_seed() -> None:
    ordered = sorted(RANGES, key=lambda r: r.first)
    assert all(before.end <= after.first for before, after in pairwise(ordered))
    assert len({r.purpose for r in RANGES}) == len(RANGES)


@pytest.mark.parametrize("seeds", RANGES, ids=lambda r: r.purpose)
def test_a_range_gives_all_of_its_seeds_and_no_other(seeds: SeedRange) -> None:
    assert seeds.take(seeds.count) == range(seeds.first, seeds.end)
    assert seeds.take(2, 3) == range(seeds.first + 3, seeds.first + 5)
    for count, offset in ((seeds.count + 1, 0), (1, seeds.count), (1, -1), (-1, 0)):
        with pytest.raises(UsageError, match=f"E-SEED. {seeds.purpose} has"):
            seeds.take(count, offset)


def test_every_verdict_that_is_allowed_stays_within_its_range() -> None:
    """Also with the most images, and whatever weights and attempts its seeds follow from."""
    most = Terms(0.02, MOST_PAIRS // PIXEL_PAIRS)
    assert most.pixel_pairs == MOST_PAIRS
    firsts = {trial(weights, k).first_seed for weights in "ab" for k in range(50)}
    assert len(firsts) == 100, "no two attempts begin at one seed"
    assert min(firsts) >= VERDICTS.first and max(firsts) + MOST_PAIRS <= VERDICTS.end
    with pytest.raises(UsageError, match="200000"):
        Terms(0.02, MOST_PAIRS // PIXEL_PAIRS + 1)
    assert most.maximum // 2 <= SEARCH.count, "the search uses up to half as many"


def test_seeds_follow_from_weights_and_attempt_alone() -> None:
    assert trial("a", 3) == trial("a", 3)
    assert trial("a", 0).first_seed == 8_676_428_164_114, "a bundle of today verifies tomorrow"
    assert len({VERDICTS.drawn(10)[0] for _ in range(20)}) == 20


def test_all_attempts_together_use_no_more_than_the_error() -> None:
    levels = [level(k) for k in range(100_000)]
    assert 0.99 * ERROR < sum(1 - one for one in levels) < ERROR
    assert all(a <= b for a, b in pairwise(levels)), "each next one holds at a higher level"


def test_no_other_file_owns_a_seed() -> None:
    """A number of a million or more that begins a range of seeds stands in the table alone."""
    pattern = re.compile(
        r"^\w*SEEDS?\w* *(?::[^=\n]*)?= *(?:range\()?(?:\d+_\d{3}|1 <<)", re.MULTILINE
    )
    owner = ROOT / "edgegen" / "core" / "seeds.py"
    assert pattern.search("LOOK_SEED = 3_000_000") and pattern.search("SEEDS = range(4_000_000, 5)")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for folder in ("edgegen", "export", "calibrate", "benchmarks", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if path != owner
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
