"""Bytes of weights, gradients and optimizer state: counted by hand beside, and what rounding
saves.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from adapting import ADAPT, inject
from runs import HERE
from torch import Tensor, nn

from edgegen.core.graph import Objective
from edgegen.training.adapt import Kind
from edgegen.training.adapt.bases import quantize
from edgegen.training.adapt.memory import Footprint, memory
from edgegen.training.update import Optimizer, optimizer_of


class Net(nn.Module):
    """x (b, 64) -> (b, 256): linear layers, a convolution and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 256), nn.Linear(256, 256)
        self.conv, self.norm = nn.Conv1d(1, 1, 3, padding=1), nn.BatchNorm1d(256)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.second(self.first(x))[:, None])[:, 0])


def stepped(network: nn.Module, eight_bit: bool) -> Optimizer:
    params = tuple(p for p in network.parameters() if p.requires_grad)
    optimizer = optimizer_of(Objective("x", params, lambda batch: params[0].sum()), eight_bit)
    optimizer.found_inf = torch.zeros(())
    network(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    return optimizer


def test_full_fine_tuning_takes_sixteen_bytes_a_weight() -> None:
    network = Net()
    before = memory(network, ())
    found = memory(network, [stepped(network, eight_bit=False)])
    linear = sum(p.numel() for layer in (network.first, network.second) for p in layer.parameters())
    rest = sum(p.numel() for p in network.parameters()) - linear
    assert (
        before.linear == Footprint(weights=4 * linear)
        and before.rest.gradients == before.rest.optimizer == 0
    )
    # and Adam's count of steps, four tensors
    assert found.linear == Footprint(4 * linear, 4 * linear, 8 * linear + 4 * 4)
    # statistics and their count
    assert found.rest == Footprint(4 * rest + 2 * 4 * 256 + 8, 4 * rest, 8 * rest + 4 * 4)
    assert (found.linear + found.rest).total == found.linear.total + found.rest.total


@pytest.mark.slow
@ADAPT
@pytest.mark.parametrize(
    ("kind", "a_weight", "scales"),
    [("int8", 1.0, 4 * 512), ("nf4", 0.5, 4 * (256 * 320 // 64) + 2 * 64)],
)
def test_rounded_weights_are_counted_with_their_scales_and_levels(
    kind: Kind, a_weight: float, scales: int
) -> None:
    network = Net()
    quantize(network, kind)
    weights = 64 * 256 + 256 * 256
    assert memory(network, ()).linear == Footprint(
        weights=int(a_weight * weights) + scales + 4 * 512
    )
    network.again = network.first
    assert memory(network, ()).linear.weights == int(a_weight * weights) + scales + 4 * 512


@pytest.mark.slow
@ADAPT
def test_adapters_on_nf4_with_8_bit_adam_take_less_than_a_third_of_full_fine_tuning() -> None:
    full = Net()
    whole = memory(full, [stepped(full, eight_bit=False)]).linear.total
    network = Net()
    quantize(network, "nf4")
    inject(network, 8)
    optimizer = stepped(network, eight_bit=True)
    found = memory(network, [optimizer])
    assert found.linear.total < 0.3 * whole
    lora = [p for name, p in network.named_parameters() if "lora_" in name and "conv" not in name]
    assert found.linear.gradients == 4 * sum(p.numel() for p in lora)
    tables = 2 * 4 * 256  # shared by all
    assert (
        found.linear.optimizer == sum(2 * p.numel() + 8 * (p.numel() // 256) for p in lora) + tables
    )


PEAK = """
import sys
sys.path[:0] = {path!r}
from edgegen.machine.resident import peak_bytes
before = peak_bytes()
filled = bytearray(b"x") * (64 << 20)
del filled
print(before, peak_bytes())
"""


@pytest.mark.slow
def test_the_peak_is_of_this_process_and_stays() -> None:
    mine = torch.ones(1 << 27)  # 512 MB, which a child must not be told of
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(path=HERE)], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert 60 << 20 <= after - before < 100 << 20 and before < mine.nbytes * 1.5
