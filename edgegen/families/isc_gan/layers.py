"""Layers of StyleGAN2 in a form that INT8 can use, in which the weights of a modulated convolution
do not depend on the image.

Training layers keep weights of unit variance and scale them at run time (equalised learning rate).
`constant()` returns the same function with everything folded into ordinary layers, for export.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.noise import noise as philox
from ...core.spec import TensorSpec
from .qat import Rounder

GAIN = math.sqrt(2)  # keeps the second moment through a leaky ReLU
SLOPE = 0.2
EPSILON = 1e-8
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def up2(x: Tensor) -> Tensor:
    """Upsample (b, c, h, w) -> (b, c, 2h, 2w) bilinearly.

    That equals zero-insertion and the [1, 3, 3, 1] filter, except that edges are repeated instead
    of darkened.
    """
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def activate(x: Tensor) -> Tensor:
    """Apply a leaky ReLU scaled by sqrt(2), to keep the second moment of a centred input."""
    return F.leaky_relu(x, SLOPE) * GAIN


def _normal(cin: int, out: int, kernel: int) -> nn.Conv2d:
    layer: nn.Conv2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Conv2d, cin, out, kernel, padding=kernel // 2, bias=False
    )
    nn.init.normal_(layer.weight)
    return layer


@runtime_checkable
class Weighted(Protocol):
    """A module that equals a convolution with the weight (out, cin, k, k) that it returns."""

    def effective_weight(self) -> Tensor: ...


def response(conv: nn.Module) -> Tensor:
    """Return the effective weight of a convolution with odd k, as (cin, out, k, k).

    An adapter adds to its convolution's output, not to its weight. So a `Weighted` module is asked
    for its weight, a plain Conv2d gives its own, and any other is measured with unit impulses.
    """
    if isinstance(conv, Weighted):
        return conv.effective_weight().transpose(0, 1)
    weight: Tensor = conv.weight  # type: ignore[assignment]
    if type(conv) is nn.Conv2d:
        return weight.transpose(0, 1)
    _, cin, kernel, _ = weight.shape
    impulses = torch.zeros(cin, cin, kernel, kernel, device=weight.device)
    impulses[:, :, kernel // 2, kernel // 2].fill_diagonal_(1)
    return conv(impulses).flip(2, 3)


class EqualLinear(nn.Module):
    """A linear layer (b, cin) -> (b, out) with unit-variance weights that are scaled at run time.

    rate: factor on its learning rate.
    """

    def __init__(self, cin: int, out: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.linear: nn.Linear = nn.utils.skip_init(nn.Linear, cin, out, bias=False)  # type: ignore[no-untyped-call]
        nn.init.normal_(self.linear.weight, std=1 / rate)
        self.bias = nn.Parameter(torch.full((out,), bias / rate))
        self.scale, self.rate = rate / math.sqrt(cin), rate

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scale) + self.bias * self.rate

    def constant(self) -> nn.Linear:
        folded = nn.Linear(self.linear.in_features, self.linear.out_features)
        return _filled(folded, self.linear.weight * self.scale, self.bias * self.rate)


class EqualConv(nn.Module):
    """A convolution (b, cin, h, w) -> (b, out, h, w) with unit-variance weights that are scaled at
    run time, followed by a leaky ReLU if `activated`.

    share: a factor on the result, for branches that are summed.
    """

    def __init__(
        self, cin: int, out: int, kernel: int, activated: bool = False, share: float = 1.0
    ) -> None:
        super().__init__()
        self.conv = _normal(cin, out, kernel)
        self.bias = nn.Parameter(torch.zeros(out))
        self.rounder = Rounder()
        self.activated = activated
        # The gain is applied to the weights, which are few; leaky ReLU commutes with a factor.
        self.gain = share * (GAIN if activated else 1.0)
        self.scale = self.gain / math.sqrt(cin * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(self.rounder(x, self.conv))
        h = torch.add((self.bias * self.gain)[:, None, None].to(h.dtype), h, alpha=self.scale)
        return F.leaky_relu(h, SLOPE) if self.activated else h

    def constant(self) -> nn.Conv2d:
        """Return the folded convolution of a layer without activation.

        Layers with an activation are only in discriminators, which never ship.
        """
        weight = self.conv.weight
        out, cin, kernel, _ = weight.shape
        return _filled(
            nn.Conv2d(cin, out, kernel, padding=kernel // 2),
            weight * self.scale,
            self.bias * self.gain,
        )


@dataclass(frozen=True)
class ModConvOptions:
    """Options of a modulated convolution.

    demodulate: false for colours, whose styles are scaled by 1 / sqrt(cin) instead; activated:
    whether a leaky ReLU follows; up: whether to upsample before or after the convolution, if at
    all.
    """

    kernel: int = 3
    demodulate: bool = True
    activated: bool = True
    up: Literal["before", "after"] | None = None


class ModConv(nn.Module):
    """x (b, cin, h, w), w (b, w_dim) -> (b, out, h', w'): x * style -> convolution -> demodulate
    (docs/methods/isc-gan.md, A.2.1 and docs/architecture.md).

    size: pixels a side of the output, for its noise; None for a layer without.
    """

    def __init__(
        self,
        cin: int,
        out: int,
        w_dim: int,
        size: int | None = None,
        options: ModConvOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ModConvOptions()
        self.conv = _normal(cin, out, options.kernel)
        self.bias = nn.Parameter(torch.zeros(out))
        self.style = EqualLinear(w_dim, cin, bias=1.0)
        self.strength = nn.Parameter(torch.zeros(())) if size else None
        # colours stay in full precision, as export leaves them
        self.rounder = Rounder() if options.demodulate else None
        self.demodulate, self.activated = options.demodulate, options.activated
        self.size, self.up = size, options.up

    def styles(self, w: Tensor) -> Tensor:
        """Return the factors (b, cin) of the input channels for w (b, w_dim)."""
        styles: Tensor = self.style(w)
        return styles if self.demodulate else styles / math.sqrt(self.style.linear.out_features)

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self.modulated(x, self.styles(w), rng)

    def modulated(self, x: Tensor, s: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Apply the layer with given styles s (b, cin); rng: draws its noise, none if None."""
        gain = GAIN if self.activated else 1.0
        x = x * s[:, :, None, None].to(x.dtype)
        x = up2(x) if self.up == "before" else x
        x = self.conv(x if self.rounder is None else self.rounder(x, self.conv))
        x = up2(x) if self.up == "after" else x
        bias = (gain * self.bias)[:, None, None]
        if self.strength is not None and rng is not None:
            shape = (len(x), 1, self.size or 1, self.size or 1)
            bias = bias + gain * self.strength * torch.randn(
                shape, generator=rng, device=rng.device
            )
        if self.demodulate:
            # BF16, with its 8-bit mantissas, would make these statistics noise.
            with torch.autocast(x.device.type, enabled=False):
                energy = response(self.conv).square().sum((2, 3))
                d = gain * torch.rsqrt(s.float().square() @ energy + EPSILON)
            x = torch.addcmul(bias.to(x.dtype), x, d[:, :, None, None].to(x.dtype))
        else:
            x = gain * x + bias.to(x.dtype)
        # The gain is already in d and bias, because leaky ReLU commutes with a factor.
        return F.leaky_relu(x, SLOPE) if self.activated else x

    def constant(self, place: int = 0) -> Constant:
        return Constant(self, place)


class Constant(nn.Module):
    """A trained ModConv with constant weights and constant noise, for an exported graph.

    place: seed of the noise.
    """

    energy: Tensor | None
    shift: Tensor | None

    def __init__(self, layer: ModConv, place: int) -> None:
        super().__init__()
        trained = layer.conv.weight
        out, cin, kernel, _ = trained.shape
        gain = GAIN if layer.activated else 1.0
        self.up, self.activated = layer.up, layer.activated
        self.style = layer.style.constant()
        bias = gain * layer.bias.detach()
        energy, shift = None, None
        if layer.demodulate:
            self.conv = _filled(
                nn.Conv2d(cin, out, kernel, padding=kernel // 2, bias=False), trained
            )
            energy = trained.detach().square().sum((2, 3)).T / gain**2
            shift = bias[:, None, None]
            if layer.strength is not None and layer.size:
                field = philox(
                    TensorSpec("noise", ("batch", 1, layer.size, layer.size)), [place], "layer"
                )
                shift = shift + gain * layer.strength.detach() * torch.from_numpy(field)
        # Without demodulation, the factors of styles and activation go into the weights, and the
        # bias into the convolution.
        else:
            weight = trained * (gain / math.sqrt(cin))
            self.conv = _filled(nn.Conv2d(cin, out, kernel, padding=kernel // 2), weight, bias)
        self.register_buffer("energy", energy.contiguous() if energy is not None else None)
        self.register_buffer("shift", shift)
        self.epsilon = EPSILON / gain**2

    def forward(self, x: Tensor, w: Tensor, rng: torch.Generator | None = None) -> Tensor:
        s = self.style(w)
        x = x * s[:, :, None, None]
        x = up2(x) if self.up == "before" else x
        x = self.conv(x)
        # Factors and shifts of whole channels come before upsampling, on a quarter of the pixels.
        if self.energy is not None:
            x = x * torch.rsqrt(s * s @ self.energy + self.epsilon)[:, :, None, None]
        if self.shift is not None and self.shift.shape[1:] == (1, 1):
            x = x + self.shift
        x = up2(x) if self.up == "after" else x
        if self.shift is not None and self.shift.shape[1:] != (1, 1):
            x = x + self.shift
        return F.leaky_relu(x, SLOPE) if self.activated else x


def constant(net: nn.Module) -> nn.Module:
    """Return a frozen copy on the CPU in eval mode, with every training layer folded into a
    constant one.
    """
    folded = copy.deepcopy(net).cpu().eval()
    place = 0
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, EqualLinear | EqualConv) and not isinstance(parent, ModConv):
                setattr(parent, name, child.constant())
            elif isinstance(child, ModConv):
                setattr(parent, name, child.constant(place))
                place += 1
    return folded.eval().requires_grad_(False)


def _filled(layer: Layer, weight: Tensor, bias: Tensor | None = None) -> Layer:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer
