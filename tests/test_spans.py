"""Objectives that train one after the other: rates, averages, what begins and ends between two
steps, and resuming there.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from runs import PHOTOS
from staged import Staged, staged
from torch import Tensor, nn

from edgegen.core.graph import Batch
from edgegen.errors import UsageError
from edgegen.training import checkpoint, loop
from edgegen.training.loop import Trainer


def state(run: Trainer) -> dict[str, Tensor]:
    """Everything a checkpoint holds."""
    found = {f"now.{k}": v for k, v in run.generator.networks.state_dict().items()}
    found |= {f"average.{k}": v for k, v in run.averages.state_dict().items()}
    for objective, optimizer in zip(run.objectives, run.optimizers, strict=True):
        found |= {
            f"adam.{objective.name}.{i}.{k}": v
            for i, e in optimizer.state_dict()["state"].items()
            for k, v in e.items()
        }
    found |= {f"count.{name}": average.n_averaged for name, average in run.average.items()}
    return {k: v.detach().clone() for k, v in found.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return equal(dict(a.state_dict()), dict(b.state_dict()))


def test_only_active_objectives_step_and_are_reported() -> None:
    made, run = staged(steps=20, half=0.4, gap=0.1)
    reports, seen = [], []
    for report in run.run():
        reports.append(sorted(report))
        seen.append(state(run))
    assert reports == [["first"]] * 8 + [[]] * 2 + [["second"]] * 10
    assert made.modes == [(False, True)] * 10  # a network whose stage is over is read as it ships
    assert int(made.counter.steps) == 18
    moved = [
        {k.split(".")[1] for k in a if k.startswith("now.") and not torch.equal(a[k], b[k])}
        - {"counter"}
        for a, b in pairwise(seen)
    ]
    assert moved[:7] == [{"first"}] * 7 and moved[8:9] == [set()] and moved[10:] == [{"second"}] * 9
    # what no objective moves is its own average
    assert run.averages["counter"] is made.networks["counter"]


def test_rates_warm_up_and_fall_within_the_span_times_the_objective_s_own() -> None:
    _, run = staged(steps=20, half=0.4)
    rates = []
    for report in run.run():
        k = 0 if "first" in report else 1
        rates.append(run.optimizers[k].param_groups[0]["lr"] / run.recipe.rate)
    assert rates[:8] == pytest.approx([loop._fraction(k, 8, 3) for k in range(8)])
    assert rates[8:] == pytest.approx([0.5 * loop._fraction(k, 12, 3) for k in range(12)])


def test_a_finished_network_takes_its_average_and_a_late_one_s_starts_over() -> None:
    made, run = staged(steps=20)
    last = None
    for _ in run.run():
        if run.step == 10:
            last = {k: v.clone() for k, v in run.averages["first"].state_dict().items()}
            assert not same_weights(made.networks["first"], run.averages["first"])
            assert int(run.average["second"].n_averaged) == 0
        if run.step == 11:
            assert last is not None and equal(last, dict(made.networks["first"].state_dict()))
            # the first average is the network itself
            assert same_weights(run.averages["second"], made.networks["second"])
    assert last is not None and equal(last, dict(run.averages["first"].state_dict()))
    assert {name: int(a.n_averaged) for name, a in run.average.items()} == {
        "first": 10,
        "second": 10,
    }


def test_a_stage_begins_once_on_fresh_batches_and_its_average_knows() -> None:
    made, run = staged(steps=20)
    for _ in run.run():
        assert len(made.begun) == (run.step > 10)
        if run.step > 10:
            assert (
                float(run.averages["second"].get_buffer("scale"))
                == made.begun[0]
                == float(made.corrector.scale)
            )
    drawn = {image.numpy().tobytes() for b in run.lessons(3, "begin/second") for image in b.images}
    trained = {image.numpy().tobytes() for k in range(3) for image in run.feed.batch(k, 0).images}
    assert drawn != trained


def test_an_average_starts_from_what_begin_leaves_even_if_the_first_step_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, run = staged(steps=20)
    real = run.feed.batch

    def batch(step: int, seed: int) -> Batch:
        good = real(step, seed)
        return replace(good, images=good.images * float("nan")) if step == 10 else good

    monkeypatch.setattr(run.feed, "batch", batch)
    for _ in run.run():
        if run.step == 11:
            assert run.skipped == 1 and int(run.average["second"].n_averaged) == 0
            assert (
                same_weights(run.averages["second"], made.networks["second"])
                and float(made.corrector.scale) > 0
            )


@pytest.mark.parametrize("kill", [9, 10, 11])
def test_a_run_goes_on_bit_for_bit_also_from_where_a_span_ends(kill: int, tmp_path: Path) -> None:
    _, whole = staged(steps=20)
    for _ in whole.run():
        pass
    _, run = staged(steps=20)
    for _ in run.run():
        if run.step == kill:
            checkpoint.save(tmp_path, run)
            break
    made, again = staged(steps=20)
    checkpoint.resume(tmp_path, again)
    assert again.step == kill and equal(state(again), state(run))
    for _ in again.run():
        pass
    assert equal(state(again), state(whole)) and len(made.begun) == (kill <= 10)


def test_one_objective_alone_has_the_whole_run() -> None:
    made, run = staged(steps=6, only="second")
    before = {k: v.clone() for k, v in made.networks["first"].state_dict().items()}
    assert [sorted(report) for report in run.run()] == [["second"]] * 6
    assert equal(before, dict(made.networks["first"].state_dict())) and len(made.begun) == 1
    with pytest.raises(
        UsageError, match=r"E-OBJECTIVE. there is no objective 'third'; known: first, second"
    ):
        staged(only="third")


def test_a_span_without_a_step_is_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"E-SPAN. none of the run's 3 steps is left for first - train on more --images",
    ):
        staged(steps=3, half=0.1)


def test_losses_see_how_far_their_span_is() -> None:
    seen = []

    class Told(Staged):
        def first_loss(self, batch: Batch) -> Tensor:
            seen.append(batch.progress)
            return super().first_loss(batch)

    _, run = staged(steps=20)
    told = Trainer.start(Told(), replace(run.recipe), PHOTOS, 0)
    for _ in told.run():
        pass
    assert seen == pytest.approx([k / 10 for k in range(10)])
