"""Trained for seconds: the autoencoder's reconstructions, and few steps against many
(docs/methods/latent-consistency.md, E.3, tests 10 and 11).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from latents import batches, fit, lcd
from torch import Tensor

from edgegen.core.graph import Batch
from edgegen.core.samplers import Call
from edgegen.evidence.distances import Moments, frechet
from edgegen.families.lcd.config import DISTIL, CoderConfig, Distil, Way
from edgegen.families.lcd.family import LatentConsistency

pytestmark = pytest.mark.slow


def test_10_the_autoencoder_reconstructs_held_out_images() -> None:
    """24 dB, a latent spread of 1 after scaling, and nothing random in mode()."""
    model = lcd(coder=CoderConfig((32, 48)))
    losses = fit(
        model.autoencoder_loss, list(model.coder.parameters()), batches(180, pick=16), 5e-3
    )
    assert losses[-1] < 0.5 * losses[0]
    model.measure(batches(8))
    held_out = next(batches(1, seed=5, pick=128)).images
    model.coder.eval()
    with torch.no_grad():
        z = model.coder.mode(held_out)
        assert torch.equal(z, model.coder.mode(held_out))
        made = model.coder.decoder(z).clip(-1, 1)
        assert torch.equal(made, model.coder.decoder(z).clip(-1, 1))
    decibels = 10 * torch.log10(4 / (made - held_out).square().mean())
    assert decibels >= 24, decibels
    assert 0.9 <= float((z / model.teacher.scale).std()) <= 1.1


def two_kinds(count: int, pick: int = 64) -> Iterator[Batch]:
    """Batches whose images nobody looks at: latents come from `Known`."""
    for k in range(count):
        yield Batch(
            torch.zeros(pick, 3, 8, 8), torch.zeros(pick, 0), torch.Generator().manual_seed(k)
        )


def known(count: int, g: torch.Generator) -> Tensor:
    """Latents of +1 or -1 all over, with a little noise: what one step of a denoiser can only
    blur.
    """
    sign = torch.randint(2, (count, 1, 1, 1), generator=g) * 2.0 - 1
    return sign + 0.1 * torch.randn((count, 4, 4, 4), generator=g)


class Known(LatentConsistency):
    """An lcd whose latents are `known`."""

    def _latents(self, batch: Batch) -> Tensor:
        return known(len(batch.images), batch.generator)


@pytest.mark.parametrize("distil", DISTIL)
def test_11_few_steps_of_the_student_beat_one_of_the_teacher(distil: Distil) -> None:
    """By a wide margin, however it is distilled.

    That four steps beat one needs a data set: benchmarks/lcd.py measures it on a trained run.
    """
    config = lcd(
        size=8,
        coder=CoderConfig((16, 32)),
        classes=0,
        attend=(),
        guidance=1.0,
        timesteps=200,
        grid=10,
        solver=8,
        distil=distil,
    ).config
    torch.manual_seed(0)
    model = Known(replace(config, unet=replace(config.unet, widths=(32,))))
    fit(model.teacher_loss, list(model.teacher.parameters()), two_kinds(150), 8e-3)
    model.begin_student(iter(()))
    student = next(o for o in model.objectives() if o.name == "student")
    fit(student.loss, list(model.student.parameters()), two_kinds(120), 3e-3)
    model.networks.eval()
    truth = Moments.of(known(500, torch.Generator().manual_seed(7)).flatten(1).numpy())

    def distance(way: Way, steps: int) -> float:
        sampler = replace(model.config, way=way, steps=steps).sampler()
        net = model.teacher if way == "teacher" else model.student
        g = torch.Generator().manual_seed(1)

        def denoiser(x: Tensor, t: Tensor) -> Tensor:
            with torch.no_grad():
                return net(x, t, None, None, torch.zeros(len(x)) if way == "student" else None)

        x = torch.randn(500, 4, 4, 4, generator=g)
        call: Call[torch.Tensor] = {"denoiser": denoiser, "decoder": lambda x: x / 3}
        made = sampler(call, x, {}, lambda stream: torch.randn(x.shape, generator=g))
        return frechet(truth, Moments.of(3 * made.flatten(1).numpy()))

    blurred, teacher = distance("teacher", 1), distance("teacher", 20)
    students = [distance("student", steps) for steps in (1, 2, 4)]
    assert max(students) < 0.5 * blurred, (students, blurred)
    assert teacher < 0.5 * blurred, (teacher, blurred)
