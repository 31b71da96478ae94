"""What a generator's judge learns before the first step of a run, kept for those that go on."""

from __future__ import annotations

from pathlib import Path

from ..families import Judged
from . import checkpoint
from .digests import hold, keep
from .loop import Trainer

LESSONS = 400  # batches that a judge is taught with


def teach(trainer: Trainer, path: Path) -> None:
    """Give the generator's judge, if it has one, the network of this run: taught at its start, then
    read.
    """
    generator = trainer.generator
    if not isinstance(generator, Judged) or generator.judge is None:
        return
    if trainer.step == 0 and not path.exists() and trainer.world.rank == 0:
        generator.teach(trainer.lessons(LESSONS))
        keep(path.parent, {path.name: checkpoint.to_bytes(generator.judge.state_dict())})
    trainer.world.wait()
    hold(path.parent, path.name)
    checkpoint.load_judge(generator.judge, path)
