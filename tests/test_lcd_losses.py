"""lcd's losses as wholes, written again from what their networks were shown and said
(docs/methods/latent-consistency.md, E.2.3, E.2.4 a, E.2.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from latents import batches, lcd, shaken
from torch import Tensor, nn
from toys import shake

from edgegen.core.graph import Batch
from edgegen.core.samplers import alphas_bar, boundary
from edgegen.families.lcd.consistency import solver_grid
from edgegen.families.lcd.control import Controlled
from edgegen.families.lcd.family import LatentConsistency
from edgegen.families.lcd.hints import HINTS
from edgegen.families.lcd.losses import CONTROL_NULL, HUBER

Seen = list[tuple[tuple[Any, ...], Any]]


def heard(net: nn.Module) -> Seen:
    """Filled with the arguments and the result of each call of `net` from now on."""
    seen: Seen = []
    net.register_forward_hook(
        lambda _, given, made: seen.append(
            (given, made.detach() if isinstance(made, Tensor) else made)
        )
    )
    return seen


def many(classes: int = 2) -> Batch:
    return next(batches(1, pick=256, classes=classes))


def latents(model: LatentConsistency, batch: Batch) -> Tensor:
    """Those that a loss draws first."""
    again = torch.Generator()
    again.set_state(batch.generator.get_state())
    return model._latents(replace(batch, generator=again))


def signal(model: LatentConsistency, t: Tensor) -> Tensor:
    """abar at timesteps t (b,), from 0 to T - 1."""
    levels = torch.from_numpy(alphas_bar(model.config.schedule, model.config.timesteps)[1:])
    return levels[t.long()][:, None, None, None].float()


def check_noise(x: Tensor, z: Tensor, now: Tensor) -> Tensor:
    """The noise in x (b, c, h, w), which must be standard normal."""
    eps = (x - now.sqrt() * z) / (1 - now).sqrt()
    assert float(eps.mean()) == pytest.approx(0, abs=0.02) and float(eps.std()) == pytest.approx(
        1, abs=0.02
    )
    return eps


@pytest.fixture
def model() -> Iterator[LatentConsistency]:
    """The student as it begins, then moved away from its teacher and its average."""
    made = shaken(w_max=3.0)
    made.begin_student(iter(()))
    shake(made.student, 5, 0.2)
    yield made


def test_4_the_student_s_average_starts_as_the_student() -> None:
    made = shaken()
    assert not torch.equal(made.target.head.weight, made.teacher.head.weight)
    made.begin_student(iter(()))
    start = made.student.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in made.target.state_dict().items())


def test_4_the_student_s_loss_is_that_of_e_2_4(model: LatentConsistency) -> None:
    """z_s by one guided DDIM step of the teacher, the average's f there, Huber of the difference in
    units of v.
    """
    batch, k = many(), model.config.timesteps // model.config.grid
    z = latents(model, batch)
    seen = {name: heard(model.networks[name]) for name in ("teacher", "target", "student")}
    loss = model.student_loss(batch).detach()
    (teacher,), (target,), (student,) = seen.values()
    (x, t, label, _, w), predicted = student
    assert set(t.tolist()) == set(solver_grid(model.config.timesteps, model.config.grid).tolist())
    assert torch.equal(label, batch.labels) and 0 <= w.min() < 0.1 and 2.9 < w.max() <= 3
    s, now = (t - k).clamp(min=0), signal(model, t)
    then = signal(model, s)
    check_noise(x, z, now)
    assert torch.equal(teacher[0][0], torch.cat([x, x])) and torch.equal(
        teacher[0][1], torch.cat([t, t])
    )
    assert torch.equal(teacher[0][2], torch.cat([label, 0 * label]))
    c, u = teacher[1].chunk(2)
    v = c + w[:, None, None, None] * (c - u)
    reached = then.sqrt() * (now.sqrt() * x - (1 - now).sqrt() * v) + (1 - then).sqrt() * (
        (1 - now).sqrt() * x + now.sqrt() * v
    )
    torch.testing.assert_close(target[0][0], reached, rtol=1e-4, atol=1e-5)
    assert all(
        torch.equal(a, b)
        for a, b in zip((target[0][1], target[0][2], target[0][4]), (s, label, w), strict=True)
    )

    def f(at: Tensor, time: Tensor, level: Tensor, said: Tensor) -> Tensor:
        skip, out = boundary(time[:, None, None, None])
        return skip * at + out * (level.sqrt() * at - (1 - level).sqrt() * said)

    far = (f(x, t, now, predicted) - f(reached, s, then, target[1])) / (1 - now).sqrt()
    assert float(loss) == pytest.approx(
        float(((far**2 + HUBER**2).sqrt() - HUBER).mean()), rel=1e-4
    )
    assert far[t == k - 1].abs().mean() > 0.01  # the anchor, j = 1, is among them


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_5_the_teacher_s_loss_is_that_of_e_2_3(prediction: Any) -> None:
    """All timesteps alike, the label replaced by the null one time in ten."""
    model = shaken(prediction=prediction)
    dropped, times = [], []
    for batch in batches(8, pick=256):
        z, seen = latents(model, batch), heard(model.teacher)
        loss = model.teacher_loss(batch).detach()
        (((x, t, label, _), predicted),) = seen
        now = signal(model, t)
        eps = check_noise(x, z, now)
        wanted = eps if prediction == "epsilon" else now.sqrt() * eps - (1 - now).sqrt() * z
        assert float(loss) == pytest.approx(float((wanted - predicted).square().mean()), rel=1e-3)
        kept = label.any(1)
        assert torch.equal(label[kept], batch.labels[kept])
        dropped.append(1 - kept.float().mean().item())
        times.append(t)
    assert sum(dropped) / 8 == pytest.approx(model.config.null, abs=0.02)
    drawn = torch.cat(times)
    assert (int(drawn.min()), int(drawn.max())) == (0, 99) and float(drawn.mean()) == pytest.approx(
        49.5, abs=2
    )


@pytest.mark.parametrize("hint", sorted(HINTS))
def test_7_a_fresh_control_says_nothing(hint: Any) -> None:
    made = lcd(hint=hint)
    shake(made.student, 1, 0.2)
    made.networks.eval()
    x, t, label, w = torch.randn(2, 4, 8, 8), torch.full((2,), 50.0), torch.eye(2), torch.ones(2)
    shown = torch.rand(2, made.config.hint_channels, 16, 16)
    with torch.no_grad():
        assert not made.control.hint(shown).any()
        assert torch.equal(
            Controlled(made.student, made.control)(x, t, shown, label, w),
            made.student(x, t, label, None, w),
        )


def test_7_control_starts_as_the_student_s_copy_and_its_loss_is_the_image_itself(
    model: LatentConsistency,
) -> None:
    """At the solver's timesteps, half of the labels null, the hint always there."""
    assert not torch.equal(
        model.control.trunk.stem.conv.weight, model.student.trunk.stem.conv.weight
    )
    model.begin_control(iter(()))
    own, base = model.control.trunk.state_dict(), model.student.trunk.state_dict()
    assert all(torch.equal(own[name], value) for name, value in base.items())
    batch = many()
    z, student = latents(model, batch), model.student
    seen, context, embed, head = (
        heard(net) for net in (model.control, student.context, student.embed, student.head)
    )
    loss = model.control_loss(batch).detach()
    (x, _, hint), _ = seen[0]
    (_, label, _), _ = context[0]
    t = embed[0][0][0]
    assert set(t.tolist()) == set(solver_grid(model.config.timesteps, model.config.grid).tolist())
    assert torch.equal(hint, HINTS[model.config.hint](batch.images, batch.generator))
    kept = label.any(1)
    assert torch.equal(label[kept], batch.labels[kept])
    assert 1 - kept.float().mean().item() == pytest.approx(CONTROL_NULL, abs=0.1)
    now = signal(model, t)
    check_noise(x, z, now)
    clean = now.sqrt() * x - (1 - now).sqrt() * head[0][1]
    assert float(loss) == pytest.approx(float((clean - z).abs().mean()), rel=0.01)
