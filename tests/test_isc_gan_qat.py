"""Training an isc-gan to bear INT8: what is rounded, how ranges enter the loss, and that images
stay.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import nothing, same
from torch import nn
from toys import shapes

from edgegen.families import Recipe
from edgegen.families.isc_gan.config import IscGanConfig
from edgegen.families.isc_gan.family import FAMILY, IscGan
from edgegen.families.isc_gan.qat import Rounder, apart, rounding
from edgegen.training import checkpoint, run
from edgegen.training.run import InitialWeights, RunOptions, RunSettings

TINY = IscGanConfig(size=16, z_dim=8, w_dim=16, widths=(32, 16, 16), critic_widths=(32, 16, 16))


def drawn(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


def even() -> nn.Conv2d:
    """A convolution that reads each of 4 channels alike."""
    conv = nn.Conv2d(4, 4, 1, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def rounder() -> Rounder:
    made = Rounder()
    made.on = True
    return made


def test_what_is_rounded_has_256_values_between_the_images_mean_ends() -> None:
    x = drawn()
    x = x / x.abs().amax((0, 2, 3), keepdim=True)  # as even as export would make it
    out, low, high = rounder()(x, even()), x.amin((1, 2, 3)).mean(), x.amax((1, 2, 3)).mean()
    step = float((high - low) / 255)
    wanted = torch.fake_quantize_per_tensor_affine(x, step, round(float(-low) / step), 0, 255)
    inside = (x > low + step) & (x < high - step)
    torch.testing.assert_close(out[inside], wanted[inside], atol=1e-6, rtol=0)
    assert torch.equal(out[x > high], high.expand(int((x > high).sum())))
    assert len((out / step).mul(16).round().unique()) <= 258
    assert torch.equal(Rounder()(x, even()), x)


def test_channels_are_rounded_in_steps_of_their_own_size() -> None:
    x = drawn() * torch.tensor([1.0, 1.0, 1.0, 1e-3])[:, None, None]
    error = (rounder()(x, even()) - x).square().mean((0, 2, 3)).sqrt()
    plain = float(x.max() - x.min()) / 255 / 12**0.5
    assert error[3] < 0.2 * plain < error[0]


def test_the_gradient_knows_that_a_wider_range_rounds_coarser() -> None:
    """Of the squared error of what is rounded, by the largest value: a share of everybody's error,
    and its own.
    """
    x = drawn()[:1, :1].requires_grad_()
    conv = nn.Conv2d(1, 1, 1, bias=False)
    out = rounder()(x, conv)
    error = (out - x).detach()
    (out - x.detach()).square().sum().backward()
    assert x.grad is not None
    top, step = int(x.detach().argmax()), float(x.detach().max() - x.detach().min()) / 255
    shared = 2 * float(error.square().sum()) / step / 255
    assert (
        float(x.grad.flatten()[top])
        == pytest.approx(shared + 2 * float(error.flatten()[top]), rel=1e-3)
        and shared > 0
    )


def test_only_what_export_rounds_is_rounded() -> None:
    made = IscGan(replace(TINY, qat=True)).generator.synthesis
    with rounding(made.blocks[1:]):
        on = {name for name, m in made.named_modules() if isinstance(m, Rounder) and m.on}
    wanted = {1: ("conv0", "squeeze", "excite", "fuse"), 2: ("conv0", "squeeze")}
    assert on == {f"blocks.{k}.{layer}.rounder" for k, layers in wanted.items() for layer in layers}
    assert not any(m.on for m in made.modules() if isinstance(m, Rounder))


def settings(config: IscGanConfig, images: int) -> RunSettings:
    recipe = Recipe(config, images=images, batch=8, rate=0.003, warmup=5, ema=0.5, precision="fp32")
    return RunSettings("isc-gan", "toy", recipe, 0, init="0" * 64)


def distances(made: IscGan, start: IscGan) -> tuple[float, float]:
    """Squared error by rounding, and of images without rounding from those of the start."""
    synthesis, z = (
        made.generator.synthesis,
        torch.randn(64, TINY.z_dim, generator=torch.Generator().manual_seed(9)),
    )
    with torch.no_grad():
        w = start.generator.mapping(z)
        exact, wanted = synthesis(w), start.generator.synthesis(w)
        with rounding(synthesis.blocks[1:]):
            return float((synthesis(w) - exact).square().mean()), float(
                (exact - wanted).square().mean() / wanted.var()
            )


@pytest.mark.slow
def test_rounding_costs_less_and_the_images_stay(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = IscGan(TINY)
    tensors = {f"generator.{k}": v for k, v in start.generator.state_dict().items()}
    photos, config = shapes(40, 16), replace(TINY, qat=True)
    out = run.train(
        settings(config, 8 * 120),
        photos,
        tmp_path / "a",
        False,
        60,
        nothing,
        RunOptions(start=InitialWeights(tensors, tmp_path)),
    )
    made = IscGan(TINY)
    # what ships fits the config without qat
    checkpoint.load_into(made, checkpoint.read_weights(out), out)
    before, after = distances(start, start), distances(made, start)
    assert after[0] < 0.8 * before[0], (before, after)
    assert after[1] < 0.02, after
    assert all(
        torch.equal(made.generator.mapping.state_dict()[k], v)
        for k, v in start.generator.mapping.state_dict().items()
    )


@pytest.mark.slow
def test_the_teacher_is_resumed_and_adapting_plays_the_game(tmp_path: Path) -> None:
    config, photos = replace(TINY, qat=True), shapes(40, 16)
    tensors = {f"generator.{k}": v for k, v in IscGan(TINY).generator.state_dict().items()}
    options = RunOptions(start=InitialWeights(tensors, tmp_path))

    class Enough(Exception):
        pass

    def stop(trainer: object, report: object) -> None:
        if getattr(trainer, "step", 0) == 7:
            raise Enough

    with pytest.raises(Enough):
        run.train(settings(config, 80), photos, tmp_path / "half", False, 5, stop, options)
    run.train(settings(config, 80), photos, tmp_path / "half", True, 5, nothing)
    run.train(settings(config, 80), photos, tmp_path / "whole", False, 5, nothing, options)
    same(tmp_path / "half", tmp_path / "whole")
    assert [o.name for o in IscGan(config).adapting()] == ["generator", "discriminator"]


@pytest.mark.slow
def test_a_fine_tuning_of_every_weight_plays_the_game_too(tmp_path: Path) -> None:
    asked = replace(settings(replace(TINY, qat=True), 16), finetune={})
    seen: list[str] = []
    run.train(
        asked,
        shapes(40, 16),
        tmp_path / "run",
        False,
        5,
        lambda trainer, report: seen.extend(o.name for o in trainer.objectives),
    )
    assert set(seen) == {"generator", "discriminator"}


def test_the_recipe_goes_on_where_photos32_ends() -> None:
    recipe, game = FAMILY.recipes["qat32"](), FAMILY.recipes["photos32"]()
    assert replace(recipe.config, qat=False) == game.config
    assert [o.name for o in FAMILY.build(replace(TINY, qat=True)).objectives()] == ["qat"]


def test_grain_on_a_flat_ground_is_farther_than_a_shift() -> None:
    flat = torch.zeros(1, 3, 8, 8)
    grain = 0.1 * (torch.arange(8)[:, None] + torch.arange(8)[None]).remainder(2).mul(2).sub(
        1
    ).expand(1, 3, 8, 8)
    assert apart(flat, flat + 0.1) == pytest.approx(0.01) and apart(flat, grain) == pytest.approx(
        0.09
    )
