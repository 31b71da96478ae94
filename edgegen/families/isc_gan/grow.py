"""Growing a trained isc-gan for larger images: each doubling adds a block to the generator and to
the discriminator.

At first the new layers change nothing: the image is the smaller one, upsampled, and the new
discriminator scores an image as the old one scores its 2x2 means. So training continues from where
it stopped, and trains the new layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .. import Grown
from .config import IscGanConfig
from .critic import Down
from .layers import SLOPE, EqualConv
from .synthesis import SynthesisBlock

BLOCKS, CRITIC = "generator.synthesis.blocks", "discriminator"


def grown(config: IscGanConfig, tensors: Mapping[str, Tensor], size: int) -> Grown:
    """Return the generator as it begins at `size`. ValueError unless that is the config's size
    times a power of two.
    """
    doublings = (size // config.size).bit_length() - 1
    if config.size << doublings != size:
        raise ValueError(f"it can draw {config.size} times a power of two")
    last = len(config.widths) - 1
    added = [
        f"{BLOCKS}.{last}.{name}" for name in ("excite", "fuse") if config.connection == "squeeze"
    ]
    added += [f"{BLOCKS}.{last + k}" for k in range(1, doublings + 1)]
    added += [f"{CRITIC}.enter", *(f"{CRITIC}.blocks.{k}" for k in range(doublings))]
    for _ in range(doublings):
        config, tensors = _doubled(config, tensors)
    return Grown(config, tensors, tuple(added))


def _doubled(
    before: IscGanConfig, tensors: Mapping[str, Tensor]
) -> tuple[IscGanConfig, dict[str, Tensor]]:
    """Return config and tensors for twice the size.

    r1_gamma grows by 4: R1 sums squared slopes over pixels, and the same function has four times as
    many pixels with a fourth of the slope each.
    """
    after = replace(
        before,
        size=2 * before.size,
        widths=(*before.widths, _finer(before.widths[-1], 1)),
        critic_widths=(
            *before.critic_widths,
            _finer(before.critic_widths[-1], 2 * before.channels),
        ),
        regularizers=replace(before.regularizers, r1_gamma=4 * before.regularizers.r1_gamma),
    )
    level = len(before.widths)
    wider, new = SynthesisBlock(after, level - 1, False), SynthesisBlock(after, level, True)
    nn.init.zeros_(new.colours.conv.weight)
    critic = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{CRITIC}.")}
    out = {**_named(f"{BLOCKS}.{level - 1}", wider), **_named(f"{BLOCKS}.{level}", new)}
    # The trained tensors of the widened block stay.
    out |= {name: tensor for name, tensor in tensors.items() if name not in critic}
    return after, out | (_critic(before, after, critic) if critic else {})


def _finer(width: int, least: int) -> int:
    """Return the channels of the next finer level: half, in multiples of 16, at least `least`."""
    return 16 * max(width // 32, -(-least // 16))


def _critic(
    before: IscGanConfig, after: IscGanConfig, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the discriminator's tensors with a new entrance and first block.

    At first these pass on the means of colours, in pairs of channels, because lrelu(x) - lrelu(-x)
    = (1 + slope) x.
    """
    c, width, wide = before.channels, after.critic_widths[-1], before.critic_widths[-1]
    old, enter = EqualConv(c, wide, 1, activated=True), EqualConv(c, width, 1, activated=True)
    down = Down(width, wide, before.critic == "residual")
    old.load_state_dict({name: tensors[f"{CRITIC}.enter.{name}"] for name in old.state_dict()})
    colours = torch.eye(c)
    undone = torch.cat([colours, -colours], 1) / (1 + SLOPE)
    _acts(enter, torch.cat([colours, -colours]))
    _acts(down.conv0, torch.cat([undone, -undone]))
    with torch.no_grad():
        _acts(down.conv1, old.scale * old.conv.weight[:, :, 0, 0] @ undone)
        down.conv1.bias.copy_(old.bias * old.gain / down.conv1.gain)
    if down.short is not None:
        nn.init.zeros_(down.short.conv.weight)
    return {
        **{_moved(name): tensor for name, tensor in tensors.items()},
        **_named(f"{CRITIC}.enter", enter),
        **_named(f"{CRITIC}.blocks.0", down),
    }


@torch.no_grad()
def _acts(layer: EqualConv, wanted: Tensor) -> None:
    """Set weights so that, before the activation, the layer's first m outputs are `wanted` (m, n)
    times its first n inputs; the other outputs stay random.
    """
    (m, n), centre = wanted.shape, layer.conv.kernel_size[0] // 2
    layer.conv.weight[:m] = 0
    layer.conv.weight[:m, :n, centre, centre] = wanted / layer.scale


def _moved(name: str) -> str:
    """Return the new name of a discriminator's tensor after one block is added before it."""
    _, part, *rest = name.split(".")
    return f"{CRITIC}.blocks.{int(rest[0]) + 1}.{'.'.join(rest[1:])}" if part == "blocks" else name


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
