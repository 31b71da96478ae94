"""Changed training photos: what is done is told, else nothing changes, none of it ships."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import TOY, at, go, same
from toys import CONFIG, shake, shapes, tensor

from edgegen.core.graph import Batch
from edgegen.families import family
from edgegen.families.cas_dm import CasDm
from edgegen.families.transforms import NUMBERS, changed
from edgegen.training import checkpoint
from edgegen.training.loop import Trainer

AUGMENTED = replace(CONFIG, augment=0.5)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_is_done_without_probability() -> None:
    photos = tensor(shapes(8))
    same_photos, told = changed(photos, 0.0, rng())
    assert torch.equal(same_photos, photos) and told.shape == (8, NUMBERS) and not told.any()


def test_what_is_told_is_what_was_done() -> None:
    """Where only the flip is told, the photo is mirrored; where nothing is, it is as it was."""
    photos = tensor(shapes(64)).repeat(16, 1, 1, 1)
    moved, told = changed(photos, 0.3, rng())
    assert torch.equal(moved, changed(photos, 0.3, rng())[0])
    alone = (told[:, 0] == 1) & (told[:, 1:] == 0).all(1)
    assert alone.sum() > 5
    torch.testing.assert_close(moved[alone], photos[alone].flip(3), atol=1e-5, rtol=0)
    still = (told == 0).all(1)
    assert still.sum() > 50 and torch.equal(moved[still], photos[still])
    assert moved.min() >= -1 and moved.max() <= 1
    for column in (1, 2, 3, 5):
        share = (told[:, column] != 0).float().mean()
        assert 0.2 < share < 0.4


def test_what_comes_in_from_outside_is_white() -> None:
    dark = -torch.ones(256, 3, 16, 16)
    moved, told = changed(dark, 1.0, rng())
    right = (told[:, 2] > 1) & (told[:, 1] < 0)
    assert right.any() and (moved[right][:, :, :, 0] > 0.99).all()


def test_a_network_that_is_told_of_nothing_is_as_it_was() -> None:
    model = CasDm(AUGMENTED)
    shake(model.networks, 0, 0.1)
    model.networks.eval()
    photos = tensor(shapes(4))
    t, told = torch.tensor([3.0, 20.0, 50.0, 100.0]), torch.zeros(4, NUMBERS)
    for name, inputs in (("theta", (photos, t)), ("phi", (photos, photos.flip(0), t))):
        hint = model.networks[f"{name}_told"](told)
        net = model.networks[name]
        assert torch.equal(net(*inputs, told=hint), net(*inputs))
        assert not torch.equal(
            net(*inputs, told=model.networks[f"{name}_told"](told + 1)), net(*inputs)
        )


@pytest.mark.parametrize("name", ["cas-dm", "dkgm", "lcd"])
def test_nothing_of_it_ships_and_old_weights_go_on(name: str) -> None:
    config = family(name).recipes["tiny"]().config
    plain = family(name).build(config)
    model = family(name).build(replace(config, augment=0.5))
    tensors = {key: tensor.clone() for key, tensor in plain.networks.state_dict().items()}
    assert list(model.shipped.state_dict()) == list(plain.shipped.state_dict())
    checkpoint.start_from(model.networks, tensors, Path("old"))
    theirs = model.graphs()
    for key, graph in plain.graphs().items():
        assert graph.inputs == theirs[key].inputs and graph.output == theirs[key].output
        own, other = graph.module.state_dict(), theirs[key].module.state_dict()
        assert list(own) == list(other) and all(torch.equal(own[k], other[k]) for k in own)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cas-dm", "dkgm", "lcd"])
def test_the_networks_learn_what_they_are_told(name: str) -> None:
    recipe = family(name).recipes["tiny"]()
    config = replace(recipe.config, augment=0.5)
    model = family(name).build(config)
    plan = replace(recipe, config=config, images=16 * 24, batch=16, warmup=1)
    run = Trainer.start(model, plan, shapes(32), 0)
    before = {
        key: net.get_parameter("embed.weight").clone()
        for key, net in model.networks.items()
        if "_told" in key
    }
    assert before and all(not weight.any() for weight in before.values())
    for report in run.run():
        assert all(math.isfinite(loss) for loss in report.values())
    for key in before:
        assert model.networks.get_parameter(f"{key}.embed.weight").any() and key in run.average


def test_both_objectives_see_the_same_changed_photos() -> None:
    model = CasDm(AUGMENTED)
    photos = tensor(shapes(8))
    batch = Batch(photos, torch.zeros(8, 0), rng())
    model.theta_loss(batch)
    assert model._last is not None and not torch.equal(model._last[1].images, photos)
    assert torch.isfinite(model.phi_loss(batch))


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = replace(TOY, augment=0.3)

    def stop() -> None:
        raise RuntimeError("stopped")

    go(tmp_path / "whole", config=config, steps=12, every=4)
    with pytest.raises(RuntimeError, match="stopped"):
        go(tmp_path / "cut", config=config, steps=12, every=4, progress=at(7, stop))
    go(tmp_path / "cut", resume=True, config=config, steps=12, every=4)
    same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("name", ["cas-dm", "dkgm", "lcd"])
def test_a_probability_is_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"augment must be in \[0, 1\], a probability, got 1\.5"):
        family(name).config(augment=1.5)
