"""Linear layers of 8 and 4 bits under an adapter: close to their master, one function in every
mode, named when they stay.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import ADAPT, adapted, inject
from runs import HERE
from torch import nn

from edgegen.errors import EdgegenError, RuntimeMissing
from edgegen.families import FAMILIES
from edgegen.training.adapt import Kind, bases
from edgegen.training.adapt.bases import quantize
from edgegen.training.adapt.library import importing

pytestmark = pytest.mark.slow

KINDS: tuple[Kind, ...] = ("int8", "nf4")
# the quantiles of a normal distribution that Dettmers et al. (2023, appendix E) print
NF4 = torch.tensor(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)


def nearest(weight: torch.Tensor, kind: Kind) -> torch.Tensor:
    """The weight as the format can say it, without the library."""
    # the library rounds to FP16 first
    rows = weight.half().float() if kind == "int8" else weight.reshape(-1, 64)
    largest = rows.abs().amax(1, keepdim=True)
    if kind == "int8":
        return (rows * (127 / largest)).round() * largest / 127
    levels = (rows / largest)[..., None].sub(NF4).abs().argmin(-1)
    return (NF4[levels] * largest).view_as(weight)


class Net(nn.Module):
    """x (b, cin) -> (b, 5); NF4 leaves `odd`, both leave `conv`."""

    def __init__(self, cin: int = 32) -> None:
        super().__init__()
        self.wide, self.plain, self.odd = (
            nn.Linear(cin, 64),
            nn.Linear(64, 64, bias=False),
            nn.Linear(36, 5),
        )
        self.conv = nn.Conv2d(1, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.plain(torch.relu(self.wide(x)))
        return self.odd(self.conv(h.reshape(-1, 1, 8, 8)).flatten(1))


def net(cin: int = 32) -> Net:
    torch.manual_seed(0)
    return Net(cin)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cin", [10, 16, 32, 48, 64, 80, 96, 160, 192])
def test_a_rounded_weight_is_the_nearest_that_its_format_can_say(kind: Kind, cin: int) -> None:
    """At widths where the library's own dequantization of rows goes wrong on AVX-512, too."""
    made = net(cin)
    master = made.wide.weight.detach().clone()
    quantize(made, kind)
    assert (
        made.wide.dequantized() - nearest(master, kind)  # type: ignore[operator]
    ).abs().max() <= master.abs().max() * 1e-3
    x = torch.randn(5, cin)
    expected = x @ nearest(master, kind).T + made.wide.bias
    assert torch.allclose(made.wide(x), expected, atol=5e-3)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_one_function_in_every_mode_and_trains_after_eval(kind: Kind) -> None:
    """What bitsandbytes' own layers on a CPU are not."""
    made = net()
    quantize(made, kind)
    inject(made, 2)
    x = torch.randn(6, 32)
    first = made(x)
    made.eval()
    with torch.no_grad():
        assert torch.equal(made(x), first)
    assert torch.equal(made(x), first)
    made.train()
    made(x).square().sum().backward()
    moved = {name: p.grad for name, p in made.named_parameters() if p.requires_grad}
    assert len(moved) == 8 and all("lora_" in name for name in moved)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in moved.values())
    assert all(p.grad is None for name, p in made.named_parameters() if name not in moved)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_dequantized_layer_and_can_be_differentiated_again(
    kind: Kind,
) -> None:
    layer = nn.Sequential(nn.Linear(32, 64))
    quantize(layer, kind)
    plain = nn.Linear(32, 64)
    plain.load_state_dict({"weight": layer[0].dequantized(), "bias": layer[0].bias})  # type: ignore[operator]
    x = torch.randn(2, 3, 32, requires_grad=True)
    assert torch.allclose(layer(x), plain(x), atol=1e-6)
    slopes = [
        torch.autograd.grad(net(x.square()).square().sum(), x, create_graph=True)[0]
        for net in (layer, plain)
    ]
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-5)
    second = [torch.autograd.grad(slope.square().sum(), x)[0] for slope in slopes]
    assert torch.allclose(second[0], second[1], rtol=1e-4, atol=1e-4)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_decides_the_type_and_casts_nothing_for_good(kind: Kind) -> None:
    made = net()
    quantize(made, kind)
    x = torch.randn(4, 32)
    before = made(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = made.wide(x.requires_grad_())
    low.float().sum().backward()  # outside, as the loop does
    assert low.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32
    assert made.wide.bias.dtype == torch.float32 and torch.equal(made(x), before)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_is_named_with_the_reason(kind: Kind) -> None:
    made = net()
    state = torch.get_rng_state()
    base = quantize(made, kind)
    assert torch.equal(torch.get_rng_state(), state), "rounding draws no random numbers"
    assert base.kind == kind and base.quantized[:2] == ("wide", "plain")
    assert base.kept["conv"] == "a convolution: bitsandbytes has none"
    assert (
        base.kept.get("odd")
        == {"int8": None, "nf4": "its 180 weights are not whole blocks of 64"}[kind]
    )
    assert base.weights + base.weights_kept == sum(
        p.numel() for p in net().parameters() if p.dim() > 1
    )
    assert not any(
        p.requires_grad for name in base.quantized for p in made.get_submodule(name).parameters()
    )
    assert made.conv.weight.requires_grad, "peft freezes the rest"


def test_the_fp32_base_is_the_network_itself() -> None:
    made = net()
    kinds, before = [type(m) for m in made.modules()], copy.deepcopy(made.state_dict())
    base = quantize(made, "fp32")
    assert (base.quantized, base.kept, base.weights) == ((), {}, 0)
    assert [type(m) for m in made.modules()] == kinds
    assert all(
        torch.equal(a, b) for a, b in zip(before.values(), made.state_dict().values(), strict=True)
    )


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_copies_moves_and_checkpoints_hold(kind: Kind) -> None:
    """A run keeps an average of its networks, which is a copy, and a state that is not the rounded
    weights.
    """
    made = net()
    quantize(made, kind)
    inject(made, 2)
    x = torch.randn(3, 32)
    before = made(x)
    other = copy.deepcopy(made).to("cpu").eval()
    assert torch.equal(other(x), before)
    state = made.state_dict()
    assert (
        not [name for name in state if "wide.base_layer.weight" in name]
        and "wide.base_layer.bias" in state
    )
    for p in other.parameters():
        if p.requires_grad:
            nn.init.zeros_(p)
    assert not torch.equal(other(x), before)
    other.load_state_dict(state)
    assert torch.equal(other(x), before)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*wide\.base_layer\.weight"):
        other.load_state_dict({**state, "wide.base_layer.weight": torch.zeros(64, 32)})


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_with_two_names_and_rows_of_zeros(kind: Kind) -> None:
    made = net()
    made.again = made.plain
    with torch.no_grad():
        made.plain.weight[:7] = 0
    quantize(made, kind)
    assert made.again is made.plain and (made.plain.dequantized()[:7] == 0).all()  # type: ignore[operator]


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
def test_a_library_that_rounds_wrongly_here_is_refused(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgegen.training.adapt.layers import LAYERS

    real = LAYERS[kind].dequantized
    monkeypatch.setattr(LAYERS[kind], "dequantized", lambda self: real(self).roll(1, 0))
    with pytest.raises(
        EdgegenError,
        match=r"E-BASE. bitsandbytes rounds wide further than its format does.*--base fp32",
    ):
        quantize(net(), kind)
    made = net()
    monkeypatch.undo()
    with torch.no_grad():
        made.plain.weight[3, 4] = float("nan")
    with pytest.raises(EdgegenError, match=r"E-BASE. bitsandbytes rounds plain"):
        quantize(made, kind)


@ADAPT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_linear_layers_are_rounded_and_peft_takes_them_for_its_own(
    name: str, kind: Kind
) -> None:
    from peft.tuners.lora import bnb

    made, _ = adapted(name, kind)
    wrapped = {"int8": bnb.Linear8bitLt, "nf4": bnb.Linear4bit}[kind]
    assert made.base.quantized and all(
        type(made.networks.get_submodule(n)) is wrapped for n in made.base.quantized
    )
    linear = [
        n
        for n, reason in made.base.kept.items()
        if "convolution" not in reason and "plain" not in reason
    ]
    assert all(kind == "nf4" and "not whole blocks of 64" in made.base.kept[n] for n in linear)


def test_without_the_packages_the_command_that_installs_them_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # importing it fails
    monkeypatch.delitem(sys.modules, "edgegen.training.adapt.layers", raising=False)
    with pytest.raises(
        RuntimeMissing,
        match=r'E-BACKEND. bitsandbytes cannot be imported.* - pip install "edgegen\[adapt\]"',
    ):
        quantize(net(), "int8")
    with pytest.raises(RuntimeMissing, match="peft cannot be imported"), importing("peft"):
        raise ImportError("no")


OFFLINE = """
import sys
sys.path[:0] = {path!r}
import socket, types
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
hub = types.ModuleType("kernels")
hub.get_kernel = refuse
sys.modules["kernels"] = hub
import torch
from edgegen.training.adapt.bases import quantize
net = torch.nn.Sequential(torch.nn.Linear(64, 64))
quantize(net, "nf4")
net(torch.zeros(2, 64))
assert sys.modules["kernels"] is hub and "bitsandbytes" in sys.modules
"""


@ADAPT
def test_bitsandbytes_asks_no_hub_and_says_nothing(tmp_path: Path) -> None:
    """`kernels`, with which it would fetch a kernel as it is imported, is as good as absent."""
    done: Any = subprocess.run(
        [sys.executable, "-c", OFFLINE.format(path=HERE)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_heavy_libraries_load_when_a_base_is_rounded_only() -> None:
    assert not {"bnb", "bitsandbytes", "peft"} & set(vars(bases))
