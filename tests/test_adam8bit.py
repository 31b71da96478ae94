"""8-bit Adam where FP32 Adam stood: near it, exact in its resume, unmoved by what is not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapting import ADAPT, adapted
from runs import redigest
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from toys import shapes, trainer

from edgegen.core.graph import Batch, Objective
from edgegen.errors import InputError
from edgegen.training import checkpoint
from edgegen.training.loop import Trainer, TrainerOptions
from edgegen.training.update import optimizer_of

pytestmark = [ADAPT, pytest.mark.slow]
PHOTOS = shapes(32)


def started(eight_bit: bool = True, steps: int = 8) -> Trainer:
    """A cas-dm with adapters on an NF4 base, of which theta and phi move."""
    made, recipe = adapted("cas-dm", "nf4")
    return Trainer.start(
        made, replace(recipe, images=8 * steps), PHOTOS, 0, TrainerOptions(eight_bit=eight_bit)
    )


def copied(run: Trainer) -> dict[str, Tensor]:
    """Weights, averages and optimizers by name."""
    state = {f"now.{k}": v for k, v in run.generator.networks.state_dict().items()}
    state |= {f"average.{k}": v for k, v in run.averages.state_dict().items()}
    for objective, optimizer in zip(run.objectives, run.optimizers, strict=True):
        state |= {
            f"adam.{objective.name}.{index}.{k}": torch.as_tensor(v)
            for index, entry in optimizer.state_dict()["state"].items()
            for k, v in entry.items()
        }
    return {k: v.clone() for k, v in state.items()}


def test_it_takes_the_steps_of_fp32_adam_to_within_its_rounding() -> None:
    target = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    ends = []
    for eight_bit in (False, True):
        weight = nn.Parameter(torch.zeros(64, 64))
        optimizer = optimizer_of(Objective("x", (weight,), lambda batch: target), eight_bit)
        optimizer.found_inf = torch.zeros(())
        optimizer.param_groups[0]["lr"] = 0.01
        for _ in range(60):
            optimizer.zero_grad()
            (weight - target).square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ends.append(weight.detach())
    assert 0 < (ends[0] - ends[1]).norm() < 0.1 * ends[0].norm()


def test_the_state_is_of_8_bits_and_its_tables_are_shared() -> None:
    run = started()
    next(run.run())
    for optimizer in run.optimizers:
        entries = [entry for entry in optimizer.state.values() if "absmax1" in entry]
        assert entries and all(
            e["state1"].dtype == e["state2"].dtype == torch.uint8 for e in entries
        )
        assert len({e["qmap1"].data_ptr() for e in entries}) == 1
        assert all(p.numel() < 256 for p, e in optimizer.state.items() if "absmax1" not in e)


def test_8_steps_are_4_a_checkpoint_and_4_to_the_bit(tmp_path: Path) -> None:
    """Convolutions' adapters too, whose layout in memory a first step would otherwise change."""
    whole, half, rest = started(), started(), started()
    layout = [
        p.stride() for optimizer in rest.optimizers for p in optimizer.param_groups[0]["params"]
    ]
    losses = list(whole.run())
    assert [
        p.stride() for optimizer in whole.optimizers for p in optimizer.param_groups[0]["params"]
    ] == layout
    steps = half.run()
    first = [next(steps) for _ in range(4)]
    checkpoint.save(tmp_path, half)
    checkpoint.resume(tmp_path, rest)
    assert rest.step == 4 and [*first, *rest.run()] == losses
    a, b = copied(whole), copied(rest)
    assert a.keys() == b.keys() and any("state1" in name for name in a)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("eight_bit", [False, True])
def test_what_is_not_finite_changes_nothing(eight_bit: bool) -> None:
    """Before the first step, when there is no state yet, and after."""
    run = started(eight_bit)
    real = run.feed.batch

    def batch(step: int, seed: int) -> Batch:
        good = real(step, seed)
        return replace(good, images=good.images * float("nan")) if step in (0, 1, 4) else good

    run.feed.batch = batch  # type: ignore[method-assign]
    before = copied(run)
    for number, _ in enumerate(run.run()):
        now = copied(run)
        changed = [
            k for k in now if not torch.equal(now[k], before.get(k, torch.zeros_like(now[k])))
        ]
        assert bool(changed) == (number not in (0, 1, 4)), changed[:3]
        before = now
    assert run.skipped == 3 and all(v.float().isfinite().all() for v in before.values())
    assert all(
        int(entry["step"]) == 5
        for optimizer in run.optimizers
        for entry in optimizer.state.values()
    )


def rename(tensors: dict[str, Tensor], n: str) -> None:
    tensors[f"{n}.exp_avg"] = tensors.pop(f"{n}.state1")


def widen(tensors: dict[str, Tensor], n: str) -> None:
    tensors[f"{n}.state1"] = torch.cat([tensors[f"{n}.state1"]] * 2)


def float_state(tensors: dict[str, Tensor], n: str) -> None:
    tensors[f"{n}.state1"] = tensors[f"{n}.state1"].float()


def shorten(tensors: dict[str, Tensor], n: str) -> None:
    del tensors[f"{n}.absmax2"]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (rename, r"E-KEYS. 2 tensors do not fit: N.exp_avg is unknown; N.state1 is missing"),
        (widen, r"E-KEYS. 1 tensors do not fit: N.state1 is \(.*\), wanted \("),
        (
            float_state,
            r"E-KEYS. 1 tensors do not fit: N.state1 is torch.float32, wanted torch.uint8",
        ),
        (shorten, r"E-KEYS. 1 tensors do not fit: N.absmax2 is missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    saved: Path, spoil: Callable[[dict[str, Tensor], str], None], text: str
) -> None:
    path = saved / "step-00000002" / "adam-theta.safetensors"
    state = path.with_name("state.json")
    before, state_before = path.read_bytes(), state.read_bytes()
    tensors = load_file(path)
    number = next(name for name in sorted(tensors) if name.endswith("absmax1")).partition(".")[0]
    spoil(tensors, number)
    save_file(tensors, path)
    redigest(path)
    try:
        with pytest.raises(
            InputError, match=text.replace("fit: N", f"fit: {number}").replace("; N", f"; {number}")
        ):
            checkpoint.resume(saved, started())
    finally:
        path.write_bytes(before)
        state.write_bytes(state_before)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_state_of_the_other_adam_is_refused(
    eight_bit: bool, saved: Path, tmp_path: Path
) -> None:
    folder = saved
    if eight_bit:
        folder, other = tmp_path, started(eight_bit=False)
        next(other.run())
        checkpoint.save(folder, other)
    with pytest.raises(InputError, match=r"E-KEYS. \d tensors do not fit: \d+\..* is unknown"):
        checkpoint.resume(folder, started(eight_bit))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two steps."""
    run, folder = started(), tmp_path_factory.mktemp("saved")
    steps = run.run()
    next(steps), next(steps)
    checkpoint.save(folder, run)
    return folder


def test_every_weight_may_move_too(tmp_path: Path) -> None:
    """Full fine-tuning with it, batch norm and all; its checkpoint holds no tables."""
    base = trainer(steps=3)
    run = Trainer.start(base.generator, base.recipe, base.photos, 0, TrainerOptions(eight_bit=True))
    assert all(loss == loss for report in run.run() for loss in report.values())
    names = load_file(checkpoint.save(tmp_path, run) / "adam-theta.safetensors")
    assert names and not any("qmap" in name for name in names)
