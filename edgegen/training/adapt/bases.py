"""The base of an adapter: a network's own FP32 weights, or its linear layers rounded to 8 or 4 bits
to save memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ...errors import EdgegenError
from . import Kind

if TYPE_CHECKING:
    from .layers import Frozen

FP16_STEP = 2**-24  # the smallest number of FP16, which int8 weights pass through


@dataclass(frozen=True)
class Base:
    """The result of `quantize`: the names of the rounded layers, and of those that stay in FP32,
    with the reason for each.
    """

    kind: Kind
    quantized: tuple[str, ...]
    kept: Mapping[str, str]
    weights: int  # number of weights in the quantized layers
    weights_kept: int  # number of weights that stay in FP32


def quantize(network: nn.Module, kind: Kind, only: Collection[str] | None = None) -> Base:
    """Round the linear layers of a network to `kind`, in place, and freeze them; "fp32" leaves
    everything as it is.

    only: names of the layers that may be rounded, such as those that get adapters. Call it before
    peft changes the same `network`. Copies (copy.deepcopy) and moves to a device work as with any
    network. Convolutions stay in FP32, because bitsandbytes has none. EdgegenError if the library
    rounds by more than its format allows, RuntimeMissing if it is not installed.
    """
    if kind == "fp32":
        return Base(kind, (), {}, 0, sum(p.numel() for p in network.parameters()))
    from .layers import LAYERS

    layer = LAYERS[kind]
    why = {
        name: _reason(module, layer)
        for name, module in network.named_modules()
        if _matrices(module) and (only is None or name in only)
    }
    unrounded = {name: reason for name, reason in why.items() if reason}
    chosen = {network.get_submodule(name): name for name in why if name not in unrounded}
    rounded = {
        linear: _rounded(linear, layer, name)
        for linear, name in chosen.items()
        if isinstance(linear, nn.Linear)
    }
    for parent in list(network.modules()):
        # named_children() would give a layer with two names only once
        for name, child in parent._modules.items():
            if isinstance(child, nn.Linear) and child in rounded:
                parent._modules[name] = rounded[child]
    setattr(network, layer.flag, True)
    weights = sum(linear.weight.numel() for linear in rounded)
    rest = sum(p.numel() for name in unrounded for p in _matrices(network.get_submodule(name)))
    return Base(kind, tuple(chosen.values()), unrounded, weights, rest)


def _matrices(module: nn.Module) -> list[Tensor]:
    """Return the module's own parameters with two axes or more, without those of its children."""
    return [p for p in module.parameters(recurse=False) if p.dim() > 1]


def _reason(module: nn.Module, layer: type[Frozen]) -> str:
    """Return why a module cannot be rounded, or "" if it can."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return "a convolution: bitsandbytes has none"
    if type(module) is not nn.Linear:
        return f"not a plain linear layer: {type(module).__name__}"
    if layer.block and module.weight.numel() % layer.block:
        return f"its {module.weight.numel()} weights are not whole blocks of {layer.block}"
    return ""


def _rounded(linear: nn.Linear, layer: type[Frozen], name: str) -> Frozen:
    """Return the rounded layer, after checking it against its format's error bound.

    Otherwise an adapter would silently learn to compensate for a faulty kernel.
    """
    frozen = layer.of(linear)
    weight = linear.weight.detach().float()
    groups = weight.reshape(-1, layer.block or linear.in_features)
    off = (frozen.dequantized() - weight).abs().view_as(groups).amax(1)
    largest = groups.abs().amax(1)
    if not bool((off <= 1.01 * layer.bound * largest + FP16_STEP).all()):
        raise EdgegenError(
            "E-BASE",
            f"bitsandbytes rounds {name} further than its format does on this machine: by up to "
            f"{float((off / largest).max()):.3g} of the largest weight, not {layer.bound:.3g}",
            hint="train on the FP32 base: --base fp32",
        )
    return frozen
