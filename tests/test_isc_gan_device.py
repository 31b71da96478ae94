"""isc-gan's losses on an accelerator: everything on the batch's device, no value of a tensor asked
for, FP32 where it matters.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_isc_gan import TINY, batch, generator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgegen.core.graph import Batch
from edgegen.families.isc_gan.config import IscGanConfig, Regularizers
from edgegen.families.isc_gan.family import FAMILY, IscGan, Progress
from edgegen.families.isc_gan.losses import path_lengths, r1

CONDITIONAL = replace(TINY, classes=3, critic="plain", connection="skip")


class OnMeta(TorchFunctionMode):
    """Draws from a generator, and what is put on its device, land on "meta": there is no generator
    for that device.

    Elsewhere a tensor on the CPU meets one on "meta", or a value is wanted that is not there: both
    raise, as on a GPU they would raise or make the host wait.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        given.pop("generator", None)
        if "device" in given:
            given["device"] = "meta"
        return func(*args, **given)


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, CONDITIONAL])
def test_losses_stay_on_the_batch_s_device_and_ask_for_no_value(
    config: IscGanConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five steps of each side, so that every lazy term and an adjustment of the augmentation come
    by.
    """
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no "meta"
    made = generator(config)
    made.networks.to("meta")
    cpu = batch(4, config.classes)
    there = Batch(cpu.images.to("meta"), cpu.labels.to("meta"), cpu.generator)
    with OnMeta():
        for loss in (made.generator_loss, made.critic_loss):
            for _ in range(5):
                found = loss(there)
                found.backward()  # type: ignore[no-untyped-call]
                assert found.device.type == "meta" and found.dtype == torch.float32


def test_a_value_that_is_asked_for_is_caught() -> None:
    """The test above can fail."""
    with (
        OnMeta(),
        pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta|meta tensors"),
    ):
        float(torch.zeros((), device="meta"))
    with OnMeta(), pytest.raises(RuntimeError, match="device"):
        torch.eye(3) + torch.rand(3, 3, device="meta")


def test_r1_and_path_lengths_are_in_full_precision_under_autocast() -> None:
    """The values and second derivatives of an FP32 run, to the bit; bf16 has 8 bits."""
    made = generator(replace(TINY, noise=False))
    images = batch().images

    def penalty(kind: torch.dtype) -> Tensor:
        return r1(made.critic, images.to(kind), 1.0)

    wanted = penalty(torch.float32)
    slopes = torch.autograd.grad(wanted, tuple(made.critic.parameters()), allow_unused=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = penalty(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    again = torch.autograd.grad(found, tuple(made.critic.parameters()), allow_unused=True)
    assert all(a is b or torch.equal(a, b) for a, b in zip(slopes, again, strict=True))
    assert penalty(torch.bfloat16).dtype == torch.float32


def test_the_path_term_is_in_full_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []

    def spy(ws: Tensor, images: Tensor, rng: torch.Generator) -> Tensor:
        found = path_lengths(ws, images, rng)
        kinds.extend((ws.dtype, images.dtype, found.dtype))
        return found

    monkeypatch.setattr("edgegen.families.isc_gan.family.path_lengths", spy)
    made = generator()
    with torch.autocast("cpu", torch.bfloat16):
        loss = made.generator_loss(batch())
    loss.backward()  # type: ignore[no-untyped-call]
    assert kinds == [torch.float32] * 3 and loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.generator.parameters())


def test_steps_are_kept_through_a_state_without_being_on_the_device() -> None:
    first, second = Progress(Regularizers()), Progress(Regularizers())
    assert [first.due(0, 3) for _ in range(5)] == [True, False, False, True, False]
    second.load_state_dict(first.state_dict())
    assert second.steps == [5, 0] and not second.due(0, 3) and second.due(0, 3)
    assert not any(b.dtype == torch.int64 and b.ndim for b in first.buffers())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos64", "photos256"])
def test_gpu_recipes_run_one_step(name: str) -> None:
    """Their own structure (levels, mapping, every regulariser due) at a sixteenth of the channels:
    whole, they take a GPU. Only the smaller in bf16, which many CPUs compute slowly.
    """
    recipe = FAMILY.recipes[name]()
    narrow = replace(
        recipe.config,
        z_dim=32,
        w_dim=32,
        widths=(16,) * len(recipe.config.widths),
        critic_widths=(16,) * len(recipe.config.widths),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = IscGan(narrow)
    size = narrow.size
    rng = torch.Generator().manual_seed(0)
    photos = Batch(torch.rand(2, 3, size, size, generator=rng) * 2 - 1, torch.zeros(2, 0), rng)
    for objective in made.objectives():
        with torch.autocast("cpu", torch.bfloat16, enabled=size <= 64):
            loss = objective.loss(photos)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.params)
    assert made.progress.path_mean > 0 and isinstance(made.networks, nn.ModuleDict)
