"""Teaching of a generator's judge before the first step of a run; later it is read from disk."""

from __future__ import annotations

from pathlib import Path

from ..families import Judged
from . import checkpoint
from .digests import hold, keep
from .loop import Trainer

LESSONS = 400  # number of batches with which a judge is taught


def teach(trainer: Trainer, path: Path) -> None:
    """Load the run's judge from `path`, if the generator has one, after teaching it at step 0."""
    generator = trainer.generator
    if not isinstance(generator, Judged) or generator.judge is None:
        return
    if trainer.step == 0 and not path.exists() and trainer.world.rank == 0:
        generator.teach(trainer.lessons(LESSONS))
        keep(path.parent, {path.name: checkpoint.to_bytes(generator.judge.state_dict())})
    trainer.world.wait()
    hold(path.parent, path.name)
    checkpoint.load_judge(generator.judge, path)
