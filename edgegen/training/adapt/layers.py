"""Frozen linear layers with 8 or 4 bits, which use the storage of bitsandbytes, so that peft
recognises them, but their own multiplication.

The multiplication of bitsandbytes (0.50.2) cannot be used for training on a CPU. Its int8 layer
computes a different function in eval mode than in training mode (there it also rounds activations
to 8 bits). Its NF4 layer repacks its weights in the first eval pass, which fails unless in_features
divides by 64 and out_features by 32, loses bits of the scales and leaves a layer that cannot train.
Both cast their bias permanently to the type of the input. The layers here compute one function in
both modes: they dequantize, and multiply in the type that autocast requires. The FP32 weight is
recomputed in the backward pass instead of kept, and a layer can be differentiated twice.

NF4 weights are stored in blocks of 64 instead of rows, because with AVX-512 the library silently
dequantizes rows wrongly that are not whole blocks (in_features 16, 32, 48, 80, 96, 160: relative
error 0.26 to 0.40 instead of 0.09).
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
    """The context that the forward pass leaves for the backward pass."""

    layer: Frozen


class _Product(torch.autograd.Function):
    """The product x (..., cin), layer -> (..., out), which keeps nothing for the backward pass but
    the layer's own storage.
    """

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, layer: Frozen) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized())

    @staticmethod
    def backward(ctx: _Kept, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantized().to(gradient.dtype), None


class Frozen(nn.Module, ABC):
    """A linear layer with a frozen weight: x (..., cin) -> (..., out).

    Its weight is not in state_dict() and cannot be loaded, because it is made from the
    full-precision master, whose hash a run records.
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
        """Return the layer with a rounded weight, on the same device; the bias is shared and
        frozen.
        """

    @abstractmethod
    def dequantized(self) -> Tensor:
        """Return the dequantized weight (out, cin) in FP32."""

    @abstractmethod
    def rounded(self) -> tuple[Tensor, ...]:
        """Return all tensors that store its weight: data, scales, levels."""

    def stored(self) -> tuple[Tensor, ...]:
        """Return all tensors that the layer stores."""
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
        if weight in state_dict:  # loading an FP32 weight would truncate it to integers
            unexpected_keys.append(weight)


class Int8(Frozen, bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """An int8 layer: a row has 127 steps on either side of 0 and one FP32 scale; the library rounds
    it from FP16.
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
        # CB is a second name for the same data; copying the layer would duplicate the data
        layer.weight.CB = None
        return _finished(layer, linear)

    def dequantized(self) -> Tensor:
        return bnb.functional.int8_vectorwise_dequant(self.weight.data, self.weight.SCB)

    def rounded(self) -> tuple[Tensor, ...]:
        return self.weight.data, self.weight.SCB

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # The library does not move the scales.
        self.weight.CB, self.weight.SCB = None, self.weight.SCB.to(self.weight.device)
        return self


class Nf4(Frozen, bnb.nn.Linear4bit):  # type: ignore[misc]
    """An NF4 layer: sixteen levels, the quantiles of a normal distribution, times one FP32 scale
    per 64 weights.

    The scales are not quantized again (bitsandbytes' compress_statistics), because the table for
    that takes 1 KB per layer, which pays only from 22,000 weights on and then saves a tenth.
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
