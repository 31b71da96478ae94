"""Exact limits on a share, and looks at a count that err no more often than they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from edgegen.errors import UsageError
from edgegen.evidence.shares import MOST, ShareLooks, lower_limit, upper_limit


@pytest.mark.parametrize(
    "count, total", [(0, 64), (3, 4000), (26, 20_000), (1999, 2000), (1, 1), (2000, 2000)]
)
@pytest.mark.parametrize("level", [0.95, 0.984, 0.9995])
def test_limits_are_those_of_clopper_and_pearson(count: int, total: int, level: float) -> None:
    """Against the beta distribution of another library."""
    high = 1.0 if count == total else beta.ppf(level, count + 1, total - count)
    low = 0.0 if count == 0 else beta.ppf(1 - level, count, total - count + 1)
    assert upper_limit(count, total, level) == pytest.approx(high, rel=1e-9)
    assert lower_limit(count, total, level) == pytest.approx(low, rel=1e-9, abs=1e-12)


def test_sixty_four_without_a_failure_bound_the_share_at_less_than_a_twentieth() -> None:
    assert upper_limit(0, 64, 0.95) == pytest.approx(0.0457, abs=1e-4)


@pytest.mark.parametrize("limit, error, maximum", [(0.002, 0.04, 20_000), (0.05, 0.05, 2000)])
def test_looks_pass_what_is_at_the_limit_as_seldom_as_they_say(
    limit: float, error: float, maximum: int
) -> None:
    """Drawn counts, look by look, against the probability that was computed."""
    looks = ShareLooks(limit, error, maximum)
    assert looks.looks[0] == looks.first and 1 < len(looks.looks) <= MOST
    rng = np.random.default_rng(0)
    more = np.diff([0, *looks.looks])
    for share in (limit, limit / 4):
        counts = rng.binomial(more, share, (20_000, len(more))).cumsum(1)
        passed = (counts <= np.arange(len(more)) ** 2).any(1).mean()
        assert passed == pytest.approx(looks.passing(share), abs=0.01)
    assert 0.8 * error < looks.passing(limit) <= error


def test_the_numbers_that_the_tail_gate_promises() -> None:
    """0.5 % ruined passes in less than 1 % of runs, 0.05 % by 6,000 pairs in more than 80 %."""
    looks = ShareLooks(0.002, 0.04, 20_000)
    assert looks.passing(0.005) < 0.001 and looks.passing(0.0005, by=6000) > 0.8
    assert looks.passing(0) == pytest.approx(1)


def test_what_passes_at_a_look_is_bounded_below_the_limit_there_and_no_count_more() -> None:
    looks = ShareLooks(0.002, 0.04, 20_000)
    for number, pairs in enumerate(looks.looks):
        assert looks.interval(number**2, pairs).high <= 0.002
        assert looks.interval(number**2 + 1, pairs).high > 0.002


def test_too_few_pairs_have_no_look() -> None:
    assert ShareLooks(0.002, 0.04, 2000).looks == ()
    assert ShareLooks(0.002, 0.04, 2000).passing(0) == 0


@pytest.mark.parametrize("limit, error, maximum", [(0, 0.05, 10), (1, 0.05, 10), (0.1, 1, 10)])
def test_a_limit_that_is_none_is_refused(limit: float, error: float, maximum: int) -> None:
    with pytest.raises(UsageError, match="E-LOOKS"):
        ShareLooks(limit, error, maximum)
