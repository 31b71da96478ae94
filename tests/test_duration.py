"""How long a fine-tuning takes that was given a time: looks at its progress are counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgegen.workflows.finetune.duration import (
    END,
    ENOUGH_LOOKS,
    LOOK_SIZES,
    LOOKS_SHARE,
    STEPS_SHARE,
    looks_within,
)


@given(st.floats(1, 1e5), st.floats(1e-4, 1), st.integers(1, 20))
def test_looks_take_a_quarter_of_the_time_at_most(
    seconds: float, image: float, wanted: int
) -> None:
    looks, size = looks_within(seconds, image, wanted)
    assert 1 <= looks <= wanted and size in LOOK_SIZES
    spent = (looks + END) * size * image
    fewest = looks == 1 and size == LOOK_SIZES[-1]
    assert spent <= LOOKS_SHARE * seconds * 1.0001 or fewest
    if size != LOOK_SIZES[0]:  # larger ones would have been too few
        larger = LOOK_SIZES[LOOK_SIZES.index(size) - 1]
        enough = min(wanted, ENOUGH_LOOKS)
        assert (enough + END) * larger * image > LOOKS_SHARE * seconds * 0.9999


@pytest.mark.parametrize(
    ("seconds", "image", "found"),
    [
        (45, 0.113, (1, 64)),  # as it was: 8 looks of 256 and the end, 350 s beside 45
        (600, 0.02, (8, 256)),
        (240, 0.02, (7, 256)),
        (60, 0.02, (7, 64)),
        (100, 0.02, (5, 128)),
        (2700, 0.113, (8, 256)),
    ],
)
def test_short_times_get_fewer_and_smaller_looks(
    seconds: float, image: float, found: tuple[int, int]
) -> None:
    assert looks_within(seconds, image, 8) == found


def test_steps_and_looks_are_the_time() -> None:
    assert STEPS_SHARE + LOOKS_SHARE == 1
