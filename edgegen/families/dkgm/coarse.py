"""Stage 1 (docs/methods/dkgm.md, D.2.1): a vector of the bank plus a draw from the kernel, followed
by a network in the modes "dae" and "latent".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .bank import Bank
from .config import DkgmConfig
from .kernels import shaped
from .nets import CoarseDecoder, CoarseEncoder, Denoiser


class Coarse(nn.Module):
    """The graph "coarse": x (b, c, h, w) standard normal, pick (b, 3) uniform, label (b, classes)
    -> coarse image (b, c, h, w).
    """

    def __init__(self, config: DkgmConfig, bank: Bank, net: nn.Module | None) -> None:
        super().__init__()
        self.kernel, self.bandwidth = config.kernel, config.bandwidth
        self.bank, self.net = bank.frozen(), net

    def forward(self, x: Tensor, pick: Tensor, label: Tensor | None = None) -> Tensor:
        vector = self.bank(pick[:, 0], label)
        z = (
            x
            if vector.shape[1:] == x.shape[1:]
            else x.flatten(1)[:, : vector[0].numel()].reshape(vector.shape)
        )
        y = vector + self.bandwidth * shaped(self.kernel, z, pick)
        return y if self.net is None else self.net(y, label)


def stage(config: DkgmConfig) -> dict[str, nn.Module]:
    """Return the networks of stage 1 by name: none in mode "pixel", "coarse" in mode "dae", and
    "coarse" (a decoder) and "encoder" in mode "latent".
    """
    kinds: dict[str, dict[str, Callable[[DkgmConfig], nn.Module]]] = {
        "pixel": {},
        "dae": {"coarse": Denoiser},
        "latent": {"coarse": CoarseDecoder, "encoder": CoarseEncoder},
    }
    return {name: kind(config) for name, kind in kinds[config.mode].items()}


@contextmanager
def evaluating(nets: nn.ModuleDict) -> Iterator[None]:
    """Run the block in eval mode and without gradients, and restore the training modes after it."""
    before = {name: net.training for name, net in nets.items()}
    try:
        with torch.no_grad():
            nets.eval()
            yield
    finally:
        for name, net in nets.items():
            net.train(before[name])
