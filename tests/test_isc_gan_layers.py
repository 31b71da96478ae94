"""isc-gan's generator (docs/methods/isc-gan.md, A.3, tests 1, 2 and 4 to 6): layers and
connections; test 3 is test_isc_gan_parameters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgegen.core.noise import noise
from edgegen.core.spec import TensorSpec
from edgegen.families.isc_gan.config import IscGanConfig
from edgegen.families.isc_gan.layers import GAIN, EqualConv, ModConv, ModConvOptions, constant, up2
from edgegen.families.isc_gan.synthesis import Mapping, StyleGan, Synthesis, SynthesisBlock

SMALL = IscGanConfig(
    size=32,
    z_dim=16,
    w_dim=16,
    widths=(32, 32, 32, 16),
    critic_widths=(16, 16, 16, 16),
    noise=False,
)


def synthesis(config: IscGanConfig = SMALL, seed: int = 0) -> Synthesis:
    """Random everywhere, biases and noise strengths too, so that nothing is trivially equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Synthesis(config)
        for name, value in net.named_parameters():
            if name.endswith(("bias", "strength")):
                nn.init.normal_(value, value.detach().mean().item(), 0.2)
    return net.requires_grad_(False)


def styles(config: IscGanConfig = SMALL, count: int = 3) -> list[Tensor]:
    rng = torch.Generator().manual_seed(5)
    return [torch.randn(count, config.w_dim, generator=rng) for _ in range(config.styles)]


def block(net: Synthesis, level: int) -> SynthesisBlock:
    found = net.blocks[level]
    assert isinstance(found, SynthesisBlock)
    return found


# layers


@pytest.mark.parametrize("up", [None, "before", "after"])
def test_constant_noise_is_a_field_of_the_output_s_size(up: Any) -> None:
    """Upsampling goes over factors and shifts of whole channels, never over noise."""
    layer = ModConv(4, 6, 5, 16, ModConvOptions(up=up, activated=False)).requires_grad_(False)
    x, w = torch.randn(2, 4, 16 if up is None else 8, 16 if up is None else 8), torch.randn(2, 5)
    layer.bias.normal_()
    quiet = layer.constant(3)(x, w)
    nn.init.constant_(layer.strength, 0.5)  # type: ignore[arg-type]
    field = torch.from_numpy(noise(TensorSpec("noise", ("batch", 1, 16, 16)), [3], "layer"))
    torch.testing.assert_close(layer.constant(3)(x, w), quiet + 0.5 * field)
    torch.testing.assert_close(quiet, layer(x, w))


@pytest.mark.parametrize("up", [None, "before", "after"])
@pytest.mark.parametrize("demodulate", [True, False])
def test_constant_weights_give_what_modulated_weights_give(demodulate: bool, up: Any) -> None:
    """x * style -> conv -> demodulate against one weight an image: w' = s w, w'' = w' / ||w'||
    (A.2.1).
    """
    torch.manual_seed(0)
    layer = ModConv(16, 8, 12, 8, ModConvOptions(demodulate=demodulate, up=up))
    nn.init.normal_(layer.bias)
    nn.init.ones_(layer.strength)  # type: ignore[arg-type]
    x, w = torch.randn(3, 16, 4 if up else 8, 4 if up else 8), torch.randn(3, 12)
    s = layer.styles(w)
    expected = []
    for image, style in zip(x, s, strict=True):
        weight = layer.conv.weight * style[None, :, None, None]
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        y = image[None]
        y = F.conv2d(up2(y) if up == "before" else y, weight, padding=1)
        expected.append(up2(y) if up == "after" else y)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.cat(expected) + noise + layer.bias[:, None, None]
    wanted = F.leaky_relu(y, 0.2) * GAIN
    torch.testing.assert_close(
        layer(x, w, torch.Generator().manual_seed(1)), wanted, atol=1e-5, rtol=1e-5
    )


def test_up2_is_zero_insertion_and_the_filter_away_from_edges() -> None:
    x = torch.randn(2, 3, 6, 6)
    zeros = torch.zeros(2, 3, 12, 12)
    zeros[:, :, ::2, ::2] = x
    tap = torch.tensor([1.0, 3, 3, 1]) / 8
    kernel = (4 * torch.outer(tap, tap)).expand(3, 1, 4, 4)
    by_hand = F.conv2d(F.pad(zeros, (2, 1, 2, 1)), kernel, groups=3)
    torch.testing.assert_close(up2(x)[:, :, 1:-1, 1:-1], by_hand[:, :, 1:-1, 1:-1])
    # DC gain 1, at the edges too
    torch.testing.assert_close(up2(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    "change", [{}, {"connection": "skip"}, {"fuse": "modulated", "up": "after"}, {"isc_min_res": 4}]
)
def test_a_constant_copy_computes_the_same_with_ordinary_layers(change: dict[str, Any]) -> None:
    config = replace(SMALL, **change)
    net, w = synthesis(config), styles(config)[0]
    made = constant(net)
    assert not any(isinstance(m, ModConv | EqualConv) for m in made.modules()) and not made.training
    torch.testing.assert_close(made(w), net(w), atol=2e-5, rtol=1e-5)
    mapping = Mapping(replace(config, classes=3, truncation=0.7)).eval()
    mapping.follow(torch.randn(8, 16))
    x, label = torch.randn(2, 16), torch.eye(3)[:2]
    torch.testing.assert_close(constant(mapping)(x, label), mapping(x, label), atol=1e-6, rtol=1e-5)


def test_noise_is_explicit_and_one_fixed_field_in_a_constant_copy() -> None:
    config = replace(SMALL, noise=True)
    net, ws = synthesis(config), styles(config)
    with_noise = [net.features(ws, torch.Generator().manual_seed(k))["image"] for k in (1, 1, 2)]
    assert torch.equal(with_noise[0], with_noise[1]) and not torch.equal(
        with_noise[0], with_noise[2]
    )
    made = constant(net)
    image = made(ws[0])
    assert torch.equal(image, constant(net)(ws[0])) and not torch.allclose(
        image, net(ws[0]), atol=1e-3
    )
    # whatever the batch
    torch.testing.assert_close(image[:1], made(ws[0][:1]), atol=1e-5, rtol=1e-5)


def test_mapping_normalises_and_truncates() -> None:
    mapping = Mapping(replace(SMALL, truncation=0.0)).eval()
    mapping.follow(torch.ones(4, 16))
    x = torch.randn(2, 16)
    torch.testing.assert_close(mapping(x), mapping.mean.expand(2, -1))
    mapping.train()
    torch.testing.assert_close(mapping(x), mapping(5 * x))


# test 1: skip is a projection of the concatenated features


def test_skip_is_one_linear_map_of_all_features() -> None:
    config = replace(SMALL, connection="skip")
    net, ws = synthesis(config), styles(config)
    found = net.features(ws)
    joined: list[Tensor] = []
    weights: list[Tensor] = []
    offset = torch.zeros(())
    for level in range(4):
        layer = block(net, level).colours
        s = layer.styles(ws[2 * level + 1])
        lifted = found[f"{4 << level}.x"] * s[:, :, None, None]
        for _ in range(3 - level):
            lifted = up2(lifted)
        joined.append(lifted)
        weights.append(layer.conv.weight)
        offset = offset + layer.bias[:, None, None]
    image = F.conv2d(torch.cat(joined, 1), torch.cat(weights, 1)) + offset
    assert torch.cat(joined, 1).shape[1] == sum(config.widths)
    assert (image - found["image"]).abs().max() < 1e-4


# test 2: ISC contains skip


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_squeeze_connection_can_be_a_skip_connection(level: int) -> None:
    """r = 1, squeeze = conv1, excite a delta without modulation, demodulation and activation, fuse
    = [0 | I].
    """
    skip = block(synthesis(replace(SMALL, connection="skip")), level)
    isc = block(synthesis(replace(SMALL, ratio=1, isc_min_res=4), seed=1), level)
    if level:
        isc.conv0.load_state_dict(skip.conv0.state_dict())  # type: ignore[union-attr]
    else:
        isc.start.data = skip.start.data  # type: ignore[union-attr]
    isc.squeeze.load_state_dict(skip.conv1.state_dict())
    isc.colours.load_state_dict(skip.colours.state_dict())
    isc.excite.demodulate, isc.excite.activated = False, False
    c = SMALL.widths[level]
    isc.excite.style.linear.weight.zero_()
    # a layer without demodulation divides its styles by the root of its channels
    isc.excite.style.bias.fill_(c**0.5)
    isc.excite.conv.weight.copy_(
        torch.eye(c)[:, :, None, None] * F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    )
    isc.excite.bias.zero_()
    fuse = isc.fuse
    assert isinstance(fuse, EqualConv)
    fuse.conv.weight.copy_(
        torch.cat([torch.zeros(c, c), torch.eye(c)], 1)[:, :, None, None] / fuse.scale
    )
    fuse.bias.zero_()
    x = torch.randn(3, SMALL.widths[level - 1], 2 << level, 2 << level) if level else None
    rgb, ws = torch.randn(3, 3, 2 << level, 2 << level) if level else None, styles()[:3]
    a, b = skip.features(x, rgb, ws, None), isc.features(x, rgb, ws, None)
    # products with 0 and 1, summed in an order that the library chooses for each convolution
    for name in ("x", "rgb"):
        torch.testing.assert_close(b[name], a[name], rtol=1e-5, atol=1e-5)


# test 4: demodulation


def test_demodulation_forgets_the_scale_of_styles_and_colours_do_not() -> None:
    net, x = block(synthesis(), 1), torch.randn(3, 32, 8, 8)
    for layer, features in ((net.squeeze, x), (net.excite, x[:, :8])):
        s = layer.styles(styles()[0])
        torch.testing.assert_close(
            layer.modulated(features, 7.0 * s), layer.modulated(features, s), atol=1e-5, rtol=1e-4
        )
    s, bias = net.colours.styles(styles()[0]), net.colours.bias[:, None, None]
    one, seven = net.colours.modulated(x[:, :8], s), net.colours.modulated(x[:, :8], 7.0 * s)
    torch.testing.assert_close(seven - bias, 7 * (one - bias), atol=1e-5, rtol=1e-5)
    net.colours.bias.zero_()
    # exactly k
    assert torch.equal(
        net.colours.modulated(x[:, :8], 8.0 * s), 8 * net.colours.modulated(x[:, :8], s)
    )


# test 5: data flow


def moved_by(net: Synthesis, name: str) -> set[str]:
    """Intermediates that change when this parameter does."""
    before = net.features(styles())
    value = dict(net.named_parameters())[name]
    kept = value.clone()
    value.add_(torch.randn_like(value))
    after = net.features(styles())
    value.copy_(kept)
    return {k for k in before if not torch.equal(before[k], after[k])}


def test_what_reads_what() -> None:
    net = synthesis()
    everything = set(net.features(styles()))
    excited = moved_by(net, "blocks.1.excite.conv.weight")
    later = {k for k in everything if int(k.partition(".")[0].replace("image", "64")) > 8}
    # not y or rgb of its own block, and all that comes after
    assert excited == {"8.e", "8.x"} | later
    assert moved_by(net, "blocks.2.squeeze.conv.weight") >= {"16.q", "16.y", "16.rgb", "32.y"}
    for level in range(4):
        size = 4 << level
        read = moved_by(net, f"blocks.{level}.colours.conv.weight")
        # colours feed nothing but colours
        assert read == {f"{size}.y", "image", *(f"{4 << k}.rgb" for k in range(level, 4))}
    first = block(net, 1)
    q, d, w = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8), styles()[0]
    y = [first.colours(v, w) for v in (q, q + d, q + 2 * d)]
    torch.testing.assert_close(y[2] - y[0], 2 * (y[1] - y[0]), atol=1e-4, rtol=1e-4)  # linear in q


def test_a_fuse_that_ignores_excite_gives_it_no_gradient() -> None:
    net = synthesis().requires_grad_(True)
    fuse = block(net, 1).fuse
    assert isinstance(fuse, EqualConv)
    with torch.no_grad():
        fuse.conv.weight.copy_(torch.cat([torch.eye(32), torch.zeros(32, 32)], 1)[:, :, None, None])
    net.features(styles())["image"].square().mean().backward()  # type: ignore[no-untyped-call]
    assert all((p.grad == 0).all() for p in block(net, 1).excite.parameters())  # type: ignore[union-attr]
    assert all((p.grad != 0).any() for p in block(net, 2).excite.parameters())  # type: ignore[union-attr]


def test_a_squeezed_feature_learns_from_what_is_excited_of_it_too() -> None:
    net = synthesis().requires_grad_(True)
    with torch.no_grad():
        block(net, 1).colours.conv.weight.zero_()  # else its own colours alone would teach it
    net.features(styles())["image"].square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(
        (p.grad != 0).any() for p in block(net, 1).squeeze.parameters() if p.grad is not None
    )
    assert block(net, 1).squeeze.conv.weight.grad is not None


@pytest.mark.parametrize("connection", ["skip", "squeeze"])
@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_gets_a_gradient(connection: Any, classes: int) -> None:
    net = StyleGan(replace(SMALL, connection=connection, classes=classes, noise=True))
    ws = [net.mapping(torch.randn(2, 16), torch.eye(3)[:2] if classes else None)] * SMALL.styles
    net.synthesis.features(ws, torch.Generator())["image"].square().mean().backward()  # type: ignore[no-untyped-call]
    assert [k for k, p in net.named_parameters() if p.grad is None] == []
    assert not any(
        "blocks.3.excite" in k or "blocks.3.fuse" in k for k, _ in net.named_parameters()
    )


# test 6: variance at the start


@pytest.mark.parametrize("up", ["before", "after"])
@pytest.mark.parametrize("ratio", [4, 8])
def test_features_keep_their_second_moment_at_the_start(ratio: int, up: Any) -> None:
    """From features of unit variance that are even over the image, away from its edges: filters and
    padding take no part.
    """
    torch.manual_seed(0)
    net = block(
        Synthesis(replace(SMALL, widths=(256,) * 4, ratio=ratio, up=up)).requires_grad_(False), 1
    )
    x, ws = (
        torch.randn(16, 256, 1, 1).expand(-1, -1, 12, 12),
        [torch.randn(16, 16) for _ in range(3)],
    )
    moments = {
        k: v[:, :, 6:-6, 6:-6].square().mean().item()
        for k, v in net.features(x, None, ws, None).items()
    }
    assert all(0.6 <= moments[k] <= 1.5 for k in "hqe"), moments
    assert 0.5 <= moments["x"] <= 2


def test_features_do_not_grow_from_block_to_block() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        net = Synthesis(IscGanConfig(size=128, w_dim=64, widths=(64,) * 6, critic_widths=(16,) * 6))
        found = net.features([torch.randn(8, 64)] * 12)
    moments = [found[f"{4 << k}.x"].square().mean().item() for k in range(5)]
    assert max(moments) <= 1.5 and moments[-1] > 0.5 * moments[2], moments
