"""The training loop: steps that are not finite, the order of photos, rates and averages."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import PHOTOS, TOY, go
from toys import train, trainer

from edgegen.core.graph import Batch
from edgegen.errors import EdgegenError
from edgegen.families.cas_dm import CasDm
from edgegen.training import loop
from edgegen.training.feed import Feed
from edgegen.training.loop import GIVE_UP, Trainer

# what is not finite


class Sick(CasDm):
    """Losses of `which` are NaN at the steps in `when`, through the network, so that batch norm's
    statistics see it.
    """

    which, when = "phi", frozenset({3, 4})
    count = 0

    def theta_loss(self, batch: Batch) -> torch.Tensor:
        self.count += 1
        return super().theta_loss(self._spoilt(batch, "theta"))

    def phi_loss(self, batch: Batch) -> torch.Tensor:
        if self._last is not None and self.count in self.when:
            _, noised, predicted = self._last
            spoilt = noised if self.which == "theta" else replace(noised, x=noised.x * float("nan"))
            self._last = batch, spoilt, predicted
        return super().phi_loss(batch)

    def _spoilt(self, batch: Batch, name: str) -> Batch:
        sick = self.which == name and self.count in self.when
        return replace(batch, images=batch.images * float("nan")) if sick else batch


def sick(which: str, when: frozenset[int], steps: int = 8) -> Trainer:
    base = trainer(TOY, PHOTOS, steps=steps)
    torch.manual_seed(0)
    made = Sick(TOY)
    made.which, made.when = which, when
    made.networks.load_state_dict(base.generator.networks.state_dict())
    return Trainer.start(made, base.recipe, PHOTOS, 0)


def copied(run: Trainer) -> dict[str, torch.Tensor]:
    state = {f"now.{k}": v for k, v in run.generator.networks.state_dict().items()}
    state |= {f"average.{k}": v for k, v in run.averages.state_dict().items()}
    for objective, optimizer in zip(run.objectives, run.optimizers, strict=True):
        state |= {
            f"adam.{objective.name}.{i}.{k}": v
            for i, e in optimizer.state_dict()["state"].items()
            for k, v in e.items()
        }
    return {k: v.clone() for k, v in state.items()}


@pytest.mark.parametrize("which", ["theta", "phi"])
def test_a_step_that_is_not_finite_moves_nothing_of_its_network(which: str) -> None:
    run, seen = sick(which, frozenset({3, 4})), []
    before: dict[str, torch.Tensor] = {}
    for report in run.run():
        now = copied(run)
        if run.step in (3, 4):
            assert np.isnan(report[which]) and np.isnan(report["phi"])
            changed = {k for k in now if not torch.equal(now[k], before[k])}
            if which == "theta":  # phi reads theta's prediction, so both are skipped
                assert changed == set()
            else:
                assert changed and all("theta" in k for k in changed)
                assert any(k.startswith("average.theta") for k in changed)
        assert all(v.isfinite().all() for v in now.values())
        seen.append(report)
        before = now
    assert run.skipped == 2 and run.step == 8 and len(seen) == 8


def test_a_gradient_that_is_not_finite_is_skipped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(TOY, PHOTOS, steps=3)
    parameter = next(run.generator.networks["theta"].parameters())
    parameter.register_hook(lambda grad: grad * float("inf") if run.step == 1 else grad)  # type: ignore[no-untyped-call]
    reports = train(run)
    assert [np.isnan(r["theta"]) for r in reports] == [False, True, False] and run.skipped == 1
    assert all(v.isfinite().all() for v in copied(run).values())


@pytest.mark.slow
def test_twenty_in_a_row_give_up_with_the_last_checkpoint_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = sick("phi", frozenset(range(4, 100)), steps=60)
    with pytest.raises(
        EdgegenError, match=r"not finite for 20 steps in a row, last at step 23: .*'phi': nan"
    ) as caught:
        train(forever)
    assert caught.value.code == "E-NONFINITE" and caught.value.exit_code == 1
    assert forever.skipped == GIVE_UP == 20
    with monkeypatch.context() as patch:
        patch.setattr(
            CasDm,
            "phi_loss",
            lambda self, batch: next(self.networks["phi"].parameters()).sum() * float("nan"),
        )
        with pytest.raises(EdgegenError, match="the last checkpoint is intact"):
            go(tmp_path / "run", every=5)
    assert (tmp_path / "run" / "latest").read_text() == "step-00000015"
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines[0]["phi"] is None and lines[0]["theta"] > 0
    go(tmp_path / "run", every=5, resume=True)  # the cause is gone: the run goes on
    assert (
        json.loads((tmp_path / "run" / "step-00000040" / "state.json").read_text())["skipped"] == 15
    )


def test_fewer_than_twenty_do_not_give_up() -> None:
    run = sick("phi", frozenset(range(2, 2 + GIVE_UP - 1)), steps=30)
    train(run)
    assert run.skipped == GIVE_UP - 1


# order


def feed(size: int, classes: int = 0) -> Feed:
    return Feed(PHOTOS, size, classes, loop.CPU)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def epoch(seed: int, number: int, size: int = 8) -> list[tuple[bytes, ...]]:
        per_epoch = len(PHOTOS) // size
        steps = range(number * per_epoch, (number + 1) * per_epoch)
        return [
            tuple(image.numpy().tobytes() for image in feed(size).batch(k, seed).images)
            for k in steps
        ]

    whole = [image.numpy().tobytes() for image in feed(40).batch(0, 0).images]
    torch.manual_seed(77)
    first = epoch(0, 0)
    assert sorted(sum(first, ())) == sorted(whole)  # each photo once an epoch
    # whatever the batch
    assert list(sum(first, ())) == whole and sum(epoch(0, 0, 5), ()) == sum(first, ())
    torch.manual_seed(78)
    assert epoch(0, 0) == first and epoch(0, 1) != first and epoch(1, 0) != first
    # the short rest is left out
    assert [len(b) for b in epoch(0, 3, 7)] == [7] * 5


def test_batches_hold_images_and_labels_that_belong_together() -> None:
    batch = feed(8, 2).batch(2, 0)
    assert (
        batch.images.shape == (8, 3, 8, 8) and batch.images.min() >= -1 and batch.images.max() <= 1
    )
    pixels = ((batch.images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for image, label in zip(pixels, batch.labels, strict=True):
        place = next(k for k, p in enumerate(PHOTOS.pixels) if np.array_equal(p, image))
        assert label.tolist() == np.eye(2)[PHOTOS.labels[place]].tolist()
    assert feed(8).batch(2, 0).labels.shape == (8, 0)
    places = ((0, 0), (0, 0), (1, 0), (0, 1))
    draws = [
        torch.rand(3, generator=feed(8).batch(step, seed).generator).tolist()
        for step, seed in places
    ]
    assert draws[0] == draws[1] and draws[0] != draws[2] and draws[0] != draws[3]


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = [loop._fraction(k, 100, 10) for k in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)]) and rates[10] == 1
    assert (
        all(a > b for a, b in pairwise(rates[10:]))
        and 0 < rates[-1] < 1e-3
        and rates[55] == pytest.approx(0.5)
    )
    assert loop._fraction(3, 4, 10) == pytest.approx(0.4)


def test_the_average_is_what_it_says() -> None:
    run = trainer(TOY, PHOTOS, steps=5, ema=0.15)
    name = "theta.trunk.stem.conv.weight"
    wanted = run.averages.state_dict()[name].clone()
    for count, _ in enumerate(run.run()):
        now = run.generator.networks.state_dict()[name]
        decay = min(0.15, (1 + count) / (10 + count))
        wanted = now.clone() if count == 0 else decay * wanted + (1 - decay) * now
        torch.testing.assert_close(run.averages.state_dict()[name], wanted)
    assert loop.averaged(run)[name].data_ptr() != run.averages.state_dict()[name].data_ptr()
