"""What training promises of every family: an exact resume after kill -9, and no step that is not
finite.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import killed, resumed_exactly
from toys import shapes

from edgegen.core.graph import Batch
from edgegen.families import FAMILIES, family
from edgegen.training.loop import Trainer

pytestmark = pytest.mark.slow

EVERY_FAMILY = """
from dataclasses import replace
from toys import shapes
from edgegen.families import family
from edgegen.training.run import RunSettings, train

def child(name, out, resume, progress):
    recipe = replace(family(name).recipes["tiny"](), images=20 * 8, batch=8, warmup=2)
    photos = shapes(64, recipe.config.size)
    train(RunSettings(name, "tiny", recipe), photos, out, resume, 5, progress)
"""


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_20_steps_are_10_and_a_kill_9_and_10(name: str, tmp_path: Path) -> None:
    resumed_exactly(tmp_path, killed(EVERY_FAMILY, name, tmp_path))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_skips_what_is_not_finite(name: str) -> None:
    """Its weights, buffers, averages and optimizers stay as they are, and it goes on as if nothing
    had been.
    """
    found = family(name)
    recipe = replace(found.recipes["tiny"](), images=12 * 8, batch=8, warmup=2)
    torch.manual_seed(0)
    made, photos = found.build(recipe.config), shapes(64, recipe.config.size)
    trainer = Trainer.start(made, recipe, photos, 0)
    # at which networks change without an update
    turns = {step for o in trainer.objectives for step in trainer.span(o)}
    real, sick = trainer.feed.batch, set(range(1, 12)) - turns

    def batch(step: int, seed: int) -> Batch:
        good = real(step, seed)
        return replace(good, images=good.images * float("nan")) if step in sick else good

    trainer.feed.batch = batch  # type: ignore[method-assign]
    before = held(trainer)
    for report in trainer.run():
        now = held(trainer)
        if trainer.step - 1 in sick and any(np.isnan(loss) for loss in report.values()):
            bad = [o.name for o in trainer.objectives if np.isnan(report.get(o.name, 0.0))]
            skipped = {name for objective in bad for name in (objective, *trainer.owned[objective])}
            assert [
                k for k in now if k.split(".")[1] in skipped and not torch.equal(now[k], before[k])
            ] == []
        assert all(v.isfinite().all() for v in now.values())
        before = now
    assert trainer.skipped >= 5


def held(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights, averages and optimizers by network or objective."""
    state = {f"now.{k}": v for k, v in trainer.generator.networks.state_dict().items()}
    state |= {f"average.{k}": v for k, v in trainer.averages.state_dict().items()}
    for objective, optimizer in zip(trainer.objectives, trainer.optimizers, strict=True):
        entries = optimizer.state_dict()["state"].items()
        state |= {
            f"adam.{objective.name}.{i}.{k}": v
            for i, entry in entries
            for k, v in entry.items()
            if entry["step"]
        }
    return {k: v.detach().clone() for k, v in state.items()}
