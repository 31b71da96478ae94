"""How long a fine-tuning takes that was given a time: looks at its progress are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from adapting import PEFT
from hypothesis import given
from hypothesis import strategies as st
from listeners import Heard
from toys import shapes

from edgegen.evidence.features import FeatureNetwork
from edgegen.workflows.finetune.base import open_base
from edgegen.workflows.finetune.duration import (
    END,
    ENOUGH_LOOKS,
    LOOK_SIZES,
    LOOKS_SHARE,
    STEPS_SHARE,
    Pace,
    looks_within,
    measured_pace,
    timed_steps,
    within,
)
from edgegen.workflows.finetune.settings import FinetuneSettings
from edgegen.workflows.finetune.setup import FinetunePlan, choose


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


@pytest.mark.parametrize(("asked", "steps"), [("1m", 12), ("9m", 12), ("10m", 40), ("2h", 40)])
def test_a_short_time_is_measured_shortly(asked: str, steps: int) -> None:
    assert timed_steps(asked) == steps


def test_steps_and_looks_are_the_time() -> None:
    assert STEPS_SHARE + LOOKS_SHARE == 1


@PEFT
@pytest.mark.slow
def test_looks_are_counted_in_the_time_that_was_asked_for(
    family_run: Callable[[str], Path],
) -> None:
    """On a clock on which a step takes a second, and 32 images that are looked at 64."""
    base, now = open_base(str(family_run("cas-dm"))), [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    def network(images: np.ndarray) -> np.ndarray:
        assert len(images) == 32
        now[0] += 63
        return images

    choices = choose(FinetuneSettings(), None, base)
    given = shapes(40, base.config.size)
    plan = FinetunePlan.of(base, given, choices)
    pace = measured_pace(plan, given, cast("FeatureNetwork", network), clock=clock)
    assert pace == Pace(1.0, 2.0)
    notes = Heard()
    short = within("10m", plan, pace, notes)
    assert short.choices.evaluations == 1 and short.choices.look_images == 64
    assert short.recipe.images == 450 * plan.recipe.batch
    said = f"450 steps of {plan.recipe.batch} photos fit into 10m, with 1 looks of 64 images"
    assert notes.notes == [said]
    recorded = short.run_settings().finetune
    assert recorded is not None and recorded["looks"] == 1 and recorded["look_images"] == 64
    long = within("20h", plan, pace, notes)
    assert (long.choices.evaluations, long.choices.look_images) == (8, None)
    assert "look_images" not in (long.run_settings().finetune or {})
