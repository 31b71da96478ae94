"""Frozen linear layers of 8 and 4 bits: bitsandbytes' storage, so that peft takes them for its own,
but multiplied here.

bitsandbytes (0.50.2) multiplies in a way that training on a CPU cannot use. Its int8 layer computes
another function in eval mode than in training mode (there it rounds activations to 8 bits too). Its
NF4 layer repacks its weights in the first eval pass, which fails where in_features does not divide
by 64 or out_features by 32, loses bits of the scales and leaves a layer that no longer trains. Both
cast their bias for good to the type of whatever input comes by. Here a layer is one function in
both modes: dequantize, then multiply in the type that autocast asks for; the FP32 weight is made
again for the backward pass instead of kept. It can be differentiated twice.

Rows of NF4 weights are stored as blocks of 64, not as rows: with AVX-512 the library's
dequantization is wrong without a word for rows that are not whole blocks (in_features 16, 32, 48,
80, 96, 160: relative error 0.26 to 0.40 instead of 0.09).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from .library import importing

with importing("bitsandbytes"):
    import bitsandbytes as bnb


class _Kept(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    layer: Frozen


class _Product(torch.autograd.Function):
    """x (..., cin), layer -> (..., out): nothing but the layer's own storage is kept for the
    backward pass.
    """

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, layer: Frozen) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized())

    @staticmethod
    def backward(ctx: _Kept, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized().to(gradient.dtype), None


class Frozen(nn.Module, ABC):
    """A linear layer whose weight never moves: x (..., cin) -> (..., out).

    Its weight is not in state_dict(), and cannot be loaded: it is made from the full-precision
    master, whose hash a run holds.
    """

    flag: ClassVar[str]  # what peft looks for on the module that it injects into
    # weights that share a scale, which must divide their number; 0: a row shares it
    block: ClassVar[int]
    # rounding error that the format allows, as a share of the largest weight under the same scale
    bound: ClassVar[float]
    in_features: int
    out_features: int
    weight: Any  # the library's own kind of parameter
    bias: nn.Parameter | None

    @classmethod
    @abstractmethod
    def of(cls, linear: nn.Linear) -> Frozen:
        """The same layer with its weight rounded, on the same device; the bias is shared and
        frozen.
        """

    @abstractmethod
    def dequantized(self) -> Tensor:
        """(out, cin), FP32."""

    @abstractmethod
    def rounded(self) -> tuple[Tensor, ...]:
        """All that is kept of its weight: data, scales, levels."""

    def stored(self) -> tuple[Tensor, ...]:
        """All that it keeps."""
        return self.rounded() if self.bias is None else (*self.rounded(), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight = f"{prefix}weight"
        mine = {name: tensor for name, tensor in state_dict.items() if name != weight}
        nn.Module._load_from_state_dict(
            self, mine, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys.remove(weight)
        if weight in state_dict:  # an FP32 weight would be cut to whole numbers
            unexpected_keys.append(weight)


class Int8(Frozen, bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """A row is 127 steps to either side of 0, of one FP32 scale; rounded from FP16, as the library
    does it.
    """

    flag, block, bound = "is_loaded_in_8bit", 0, 0.5 / 127 + 2**-11

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8:
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            has_fp16_weights=False,
            device="meta",
        )
        weight = bnb.nn.Int8Params(
            linear.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False
        )
        layer.weight = weight.to(linear.weight.device)  # this is where it is quantized
        # a second name for the same data, of which a copy of the layer would make a second copy
        layer.weight.CB = None
        return _finished(layer, linear)

    def dequantized(self) -> Tensor:
        return bnb.functional.int8_vectorwise_dequant(self.weight.data, self.weight.SCB)

    def rounded(self) -> tuple[Tensor, ...]:
        return self.weight.data, self.weight.SCB

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # the library leaves the scales behind
        self.weight.CB, self.weight.SCB = None, self.weight.SCB.to(self.weight.device)
        return self


class Nf4(Frozen, bnb.nn.Linear4bit):  # type: ignore[misc]
    """Sixteen levels, the quantiles of a normal distribution, times one FP32 scale for each 64
    weights.

    The scales are not quantized again (bitsandbytes' compress_statistics): the table for it takes 1
    KB a layer, which pays from 22,000 weights on, and then saves a tenth.
    """

    # half the largest gap, between -1 and -0.6962
    flag, block, bound = "is_loaded_in_4bit", 64, 0.1520

    @classmethod
    def of(cls, linear: nn.Linear) -> Nf4:
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            torch.float32,
            False,
            "nf4",
            device="meta",
        )
        weight = bnb.nn.Params4bit(
            linear.weight.detach().reshape(-1, cls.block),
            requires_grad=False,
            blocksize=cls.block,
            compress_statistics=False,
            quant_type="nf4",
        )
        layer.weight = weight.to(linear.weight.device)  # this is where it is quantized
        return _finished(layer, linear)

    def dequantized(self) -> Tensor:
        blocks = bnb.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
        return blocks.view(self.out_features, self.in_features)

    def rounded(self) -> tuple[Tensor, ...]:
        return self.weight.data, self.weight.quant_state.absmax, self.weight.quant_state.code


LAYERS: dict[str, type[Int8] | type[Nf4]] = {"int8": Int8, "nf4": Nf4}
Made = TypeVar("Made", Int8, Nf4)


def _finished(layer: Made, linear: nn.Linear) -> Made:
    layer.bias = linear.bias
    layer.requires_grad_(False)
    layer.train(linear.training)
    return layer
