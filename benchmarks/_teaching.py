"""Prepare a training whose generator has a judge."""

from __future__ import annotations

from edgegen.families import Judged
from edgegen.training.loop import Trainer


def taught(trainer: Trainer, lessons: int) -> Trainer:
    """Return the trainer after teaching its judge `lessons` lessons, if it has one."""
    generator = trainer.generator
    if isinstance(generator, Judged) and generator.judge is not None:
        generator.teach(trainer.lessons(lessons))
    return trainer
