"""How long a fine-tuning is, where a time is asked for: steps, looks at its progress, and images of
each look, from what they cost on this machine as it is now.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...core.progress import Listener
from ..durations import seconds_of

if TYPE_CHECKING:
    from ...evidence.features import FeatureNetwork
    from ...training.data import Photos
    from .setup import FinetunePlan

# steps of the short run that a time is measured on; the run itself is not part of that time, so
# where a time is shorter than BRIEF seconds it is short as well
TIMED_STEPS, FEWER_TIMED_STEPS, BRIEF = 40, 12, 600
TIMED_IMAGES = 32  # drawn and looked at after it
STEPS_SHARE, LOOKS_SHARE = 0.75, 0.25  # of the time
# images of a look, the most that the time is enough for, and looks that it should be enough for:
# one more than the default patience
LOOK_SIZES, ENOUGH_LOOKS = (256, 128, 64), 4
# images at the end in images of a look: twice as many, of base and of adapted generator
END = 4


@dataclass(frozen=True)
class Pace:
    """Seconds a step, and seconds an image that is drawn and looked at."""

    step: float
    image: float


def timed_steps(duration: str) -> int:
    """Of the short run, where so long a fine-tuning is asked for."""
    return TIMED_STEPS if seconds_of(duration) >= BRIEF else FEWER_TIMED_STEPS


def measured_pace(
    plan: FinetunePlan,
    photos: Photos,
    network: FeatureNetwork,
    steps: int = TIMED_STEPS,
    clock: Callable[[], float] = time.monotonic,
) -> Pace:
    """Of a run of so many steps that is thrown away.

    A run through all stages, since their steps cost differently; the first two steps and those at
    which a stage begins are not counted, since there are only a few of them in a long run.
    """
    from ...core.images import to_uint8
    from ...core.seeds import PERIODIC_EVALUATION
    from ...families import Judged
    from ...training.loop import Trainer
    from ...training.record import pipeline

    short = replace(plan.recipe, images=plan.recipe.batch * steps)
    trainer = Trainer.start(plan.generator(), short, photos, plan.choices.seed)
    if isinstance(trainer.generator, Judged) and trainer.generator.judge is not None:
        trainer.generator.teach(trainer.lessons(2))
    begins = {0, 1, *(trainer.span(objective)[0] for objective in trainer.objectives)}
    spent, last = [], clock()
    for step, _ in enumerate(trainer.run()):
        now = clock()
        if step not in begins:
            spent.append(now - last)
        last = now
    before = clock()
    network(to_uint8(pipeline(trainer)(PERIODIC_EVALUATION.take(TIMED_IMAGES))))
    return Pace(sum(spent) / len(spent), (clock() - before) / TIMED_IMAGES)


def looks_within(seconds: float, image: float, wanted: int) -> tuple[int, int]:
    """Looks and images of each, at most `wanted` and LOOK_SIZES[0], that take LOOKS_SHARE of the
    time with the end; one small look where the time is enough for none.
    """
    for size in LOOK_SIZES:
        looks = math.floor(LOOKS_SHARE * seconds / (image * size)) - END
        if looks >= min(wanted, ENOUGH_LOOKS):
            return min(wanted, looks), size
    return max(1, min(wanted, looks)), LOOK_SIZES[-1]


def within(duration: str, plan: FinetunePlan, pace: Pace, listen: Listener) -> FinetunePlan:
    """The plan with as many steps and looks as fit into that time at that pace."""
    seconds = seconds_of(duration)
    steps = max(1, math.floor(STEPS_SHARE * seconds / pace.step))
    looks, size = looks_within(seconds, pace.image, plan.choices.evaluations)
    listen.note(
        f"{steps} steps of {plan.recipe.batch} photos fit into {duration}, with {looks} looks of "
        f"{size} images"
    )
    smaller = None if size == LOOK_SIZES[0] else size
    choices = replace(plan.choices, evaluations=looks, look_images=smaller)
    return replace(plan, choices=choices).for_images(steps * plan.recipe.batch)
