"""Blocks that run twice: the same values, gradients, statistics and dropout, with less kept between
the passes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from adapting import ADAPT, adapted, inject, shake
from torch import Tensor, nn
from toys import shapes, train, trainer

from edgegen.families import FAMILIES, family
from edgegen.families.lcd.attention import Spatial, TokenSet
from edgegen.families.unet import Block, Norm, UNet, UNetConfig
from edgegen.training.adapt.recompute import BLOCKS, recompute
from edgegen.training.loop import Trainer, TrainerOptions

NET = UNetConfig(widths=(16, 32), embedding=16, dropout=0.3)


def unet(config: UNetConfig = NET) -> UNet:
    torch.manual_seed(0)
    made = UNet(config, 3, 3, 2)
    shake(made)
    return made


def twin(plain: nn.Module) -> nn.Module:
    """The same network with its blocks recomputed."""
    made = copy.deepcopy(plain)
    assert recompute(made)
    return made


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(4, 3, 16, 16, generator=rng),
        torch.rand(4, generator=rng) * 100,
        torch.eye(2)[[0, 1, 1, 0]],
    )


def passed(network: nn.Module, precision: torch.dtype | None = None) -> dict[str, Tensor]:
    """Output, gradients and statistics of a training step; the random numbers are its own."""
    torch.manual_seed(7)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        out = network(*inputs())
    out.float().square().mean().backward()
    found = {
        f"gradient of {name}": p.grad
        for name, p in network.named_parameters()
        if p.grad is not None
    }
    return {
        "output": out,
        **found,
        **{name: b.clone() for name, b in network.named_buffers()},
        "next": torch.rand(3),
    }


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_step_is_the_plain_one_to_the_bit(norm: Norm, precision: torch.dtype | None) -> None:
    """Dropout draws the same, batch norms count a batch once, autocast holds in the second pass
    too.
    """
    plain = unet(replace(NET, norm=norm))
    made = twin(plain)
    a, b = passed(plain, precision), passed(made, precision)
    assert a.keys() == b.keys() and len(a) > 40
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_statistics_move_once_also_when_the_backward_pass_comes_twice() -> None:
    plain = unet()
    made = twin(plain)
    for network in (plain, made):
        torch.manual_seed(1)
        loss = network(*inputs()).square().mean()
        loss.backward(retain_graph=True)
        loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), made.buffers(), strict=True))
    assert {int(b) for name, b in made.named_buffers() if "tracked" in name} == {1}
    assert all(
        torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
        for a, b in zip(plain.parameters(), made.parameters(), strict=True)
    )


def test_the_transformers_of_lcd_are_recomputed_with_their_context() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(Spatial(16, 8, 12, "group"))
    shake(plain)
    made = twin(plain)
    x, tokens = torch.randn(2, 16, 4, 4), torch.randn(2, 3, 12)
    keep = torch.tensor([[True, True, False], [True, False, False]])
    for network in (plain, made):
        given = tokens.clone().requires_grad_()
        network[0](x, TokenSet(given, keep)).square().sum().backward()  # type: ignore[index]
        network.tokens = given.grad  # type: ignore[assignment]
    assert torch.equal(plain.tokens, made.tokens)  # type: ignore[arg-type]
    assert all(
        torch.equal(a.grad, b.grad)  # type: ignore[arg-type]
        for a, b in zip(plain.parameters(), made.parameters(), strict=True)
    )


def test_it_can_be_differentiated_twice() -> None:
    block = nn.Sequential(Block(16, 16, replace(NET, activation="silu", dropout=0.0)))
    shake(block)
    made, e = twin(block), torch.randn(2, 16)
    slopes: list[Tensor] = []
    for network in (block, made):
        x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (slope,) = torch.autograd.grad(network[0](x, e).sum(), x, create_graph=True)  # type: ignore[index]
        slopes += torch.autograd.grad(slope.square().sum(), x)
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)


def kept(network: nn.Module) -> int:
    """Bytes of feature maps that live between the passes, blocks' inputs with them."""
    alive: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        alive[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in [*network.parameters(), *network.buffers()]}
    for block in network.modules():
        if isinstance(block, Block):
            block.register_forward_pre_hook(lambda _, given: (see(given[0]), None)[1])
    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        out = network(*inputs())
    assert out.grad_fn is not None, "what is kept is alive"
    return sum(size for place, size in alive.items() if place not in own)


def test_less_is_kept_between_the_passes() -> None:
    plain = unet(replace(NET, blocks=2))
    made = twin(plain)
    assert kept(made) < 0.5 * kept(plain)


def test_names_weights_copies_and_eval_mode_stay() -> None:
    plain = unet()
    made = twin(plain)
    assert list(made.state_dict()) == list(plain.state_dict())
    blocks = [name for name, module in plain.named_modules() if isinstance(module, Block)]
    assert recompute(copy.deepcopy(plain)) == tuple(blocks) and isinstance(
        made.get_submodule(blocks[0]), Block
    )
    other = copy.deepcopy(made)  # what a run's average is
    with torch.no_grad():
        for p in made.parameters():
            p.zero_()
    plain.eval(), other.eval()
    assert torch.equal(other(*inputs()), plain(*inputs()))
    assert recompute(other) == tuple(blocks), "a second time changes nothing"
    assert (
        type(other.get_submodule(blocks[0])).__mro__.count(type(made.get_submodule(blocks[0]))) == 1
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_families_blocks_are_found(name: str) -> None:
    found = recompute(family(name).build(family(name).recipes["tiny"]().config).networks)
    assert bool(found) == (name != "isc-gan") and all("." in block for block in found)


def steps_of(run: Trainer, twice: bool) -> Iterator[dict[str, float]]:
    if twice:
        assert recompute(run.generator.networks)
    yield from train(run)


@pytest.mark.slow
def test_a_run_goes_as_without() -> None:
    """With averages, skipped statistics and all."""
    runs = [trainer(steps=4) for _ in range(2)]
    losses = [list(steps_of(run, twice)) for run, twice in zip(runs, (False, True), strict=True)]
    assert losses[0] == losses[1]
    states = [run.averages.state_dict() for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
@ADAPT
@pytest.mark.parametrize("base", ["fp32", "int8", "nf4"])
def test_blocks_under_adapters_on_every_base(base: str) -> None:
    plain = unet(replace(NET, dropout=0.0))
    if base != "fp32":
        from edgegen.training.adapt.bases import quantize

        quantize(plain, base)  # type: ignore[arg-type]
    torch.manual_seed(2)
    inject(plain, 2)
    made = twin(plain)
    a, b = passed(plain), passed(made)
    assert [name for name in a if not torch.equal(a[name], b[name])] == [] and sum(
        "lora_" in name for name in a
    ) > 20


@pytest.mark.slow
@ADAPT
def test_a_run_of_adapters_goes_as_without() -> None:
    losses = []
    for twice in (False, True):
        made, recipe = adapted("lcd", "nf4")
        photos = shapes(32, recipe.config.size)
        options = TrainerOptions(only="teacher", eight_bit=True)
        run = Trainer.start(made, replace(recipe, images=8 * 3), photos, 0, options)
        losses.append(list(steps_of(run, twice)))
    assert losses[0] == losses[1]


def test_kinds_are_those_that_hold_activations() -> None:
    assert Block in BLOCKS and len(BLOCKS) == 3
