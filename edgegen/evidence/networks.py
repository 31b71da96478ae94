"""Compute two feature networks as functions over their weight files, with batch norm folded into
the convolutions. It needs torch.

Widths and kernels are read from the tensors, so a narrow file with the same layout also runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-3  # epsilon of batch norm in both networks
VALID = (0, 0)  # TensorFlow's word for no padding
Forward = Callable[[Tensor], Tensor]  # (n, 3, h, w) in [0, 255] -> (n, dim)


@dataclass(frozen=True)
class Conv:
    """Apply a convolution with its batch norm folded in: weight (out, in / groups, kh, kw), bias
    (out,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(
        self, x: Tensor, stride: int = 1, padding: tuple[int, int] | None = None
    ) -> Tensor:
        """Convolve x; `padding` is (rows, columns) on both sides, by default half the kernel."""
        high, wide = self.weight.shape[2:]
        groups = x.shape[1] // self.weight.shape[1]
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            stride,
            (high // 2, wide // 2) if padding is None else padding,
            1,
            groups,
        )


def fold(state: Mapping[str, Tensor], conv: str, norm: str) -> Conv:
    """Fold a convolution and its batch norm in eval mode into one. Raises KeyError for a missing
    tensor.
    """
    scale = (
        state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + EPSILON).sqrt()
    )
    weight = state[f"{conv}.weight"].double() * scale[:, None, None, None]
    bias = state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * scale
    return Conv(weight.float().contiguous(memory_format=torch.channels_last), bias.float())


# --- EfficientNet-Lite0 (Tan and Le 2019; Lite: no squeeze-excitation, ReLU6, stem and head of
# fixed width) ---

LITE0_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)


class Lite0:
    """Map images (n, 3, h, w) in [0, 255] to pooled features before the classifier, (n, 1280)."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Read the weights. Raises KeyError for a tensor that the file does not hold."""
        self.stem, self.head = fold(state, "_conv_stem", "_bn0"), fold(state, "_conv_head", "_bn1")
        self.blocks = [
            InvertedResidual(state, f"_blocks.{k}", stride)
            for k, stride in enumerate(LITE0_STRIDES)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        x = F.relu6(_same(self.stem, (x - 127) * (1 / 128), 2), inplace=True)
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x), inplace=True).mean((2, 3))


class InvertedResidual:
    """Widen by a 1x1 convolution, convolve depthwise, and narrow by a 1x1 convolution."""

    def __init__(self, state: Mapping[str, Tensor], name: str, stride: int) -> None:
        self.stride = stride
        widens = f"{name}._expand_conv.weight" in state
        self.expand = fold(state, f"{name}._expand_conv", f"{name}._bn0") if widens else None
        self.depthwise = fold(state, f"{name}._depthwise_conv", f"{name}._bn1")
        self.project = fold(state, f"{name}._project_conv", f"{name}._bn2")

    @property
    def adds(self) -> bool:
        """Return whether the block adds its input to its output."""
        first = self.expand or self.depthwise
        reads = first.weight.shape[1] * (1 if self.expand else first.weight.shape[0])
        return self.stride == 1 and reads == self.project.weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x), inplace=True) if self.expand else x
        y = self.project(F.relu6(_same(self.depthwise, y, self.stride), inplace=True))
        return x + y if self.adds else y


def same_padding(conv: Conv, side: int, stride: int) -> int:
    """Return the pixels that TensorFlow's "SAME" adds to a side, the smaller half of them
    before.
    """
    return max((-(-side // stride) - 1) * stride + conv.weight.shape[2] - side, 0)


def _same(conv: Conv, x: Tensor, stride: int) -> Tensor:
    """Convolve with TensorFlow's "SAME": an even side under stride 2 gets one pixel less before
    than after.
    """
    if stride == 1:
        return conv(x)
    rows, columns = (same_padding(conv, side, stride) for side in x.shape[2:])
    return conv(
        F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)), stride, VALID
    )


# --- Inception-v3 as TensorFlow's 2015 graph has it (Szegedy et al. 2015), the network of published
# FID ---


def inception(state: Mapping[str, Tensor]) -> Forward:
    """Return a function that maps images to pooled features before the classifier, (n, 2048)."""
    names = sorted(
        key.removesuffix(".conv.weight") for key in state if key.endswith(".conv.weight")
    )
    return _Inception({name: fold(state, f"{name}.conv", f"{name}.bn") for name in names})


class _Inception:
    """Run the network of the graph, which differs from the textbook: average pools leave the border
    out of the count, and the last block pools by maximum.
    """

    def __init__(self, convolutions: Mapping[str, Conv]) -> None:
        self._convolutions = convolutions

    def __call__(self, x: Tensor) -> Tensor:
        x = self._conv("Conv2d_1a_3x3", (x - 128) * (1 / 128), 2, VALID)
        x = _shrink(self._conv("Conv2d_2b_3x3", self._conv("Conv2d_2a_3x3", x, 1, VALID)))
        x = _shrink(self._conv("Conv2d_4a_3x3", self._conv("Conv2d_3b_1x1", x), 1, VALID))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._block_a(name, x)
        x = self._block_b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._block_c(name, x)
        x = self._block_d("Mixed_7a", x)
        x = self._block_e("Mixed_7b", x, _average(x))
        x = self._block_e("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
        return x.mean((2, 3))

    def _conv(
        self, name: str, x: Tensor, stride: int = 1, padding: tuple[int, int] | None = None
    ) -> Tensor:
        return F.relu(self._convolutions[name](x, stride, padding), inplace=True)

    def _chain(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self._conv(name, x)
        return x

    def _block_a(self, m: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._conv(f"{m}.branch1x1", x),
                self._chain(x, f"{m}.branch5x5_1", f"{m}.branch5x5_2"),
                self._chain(x, *(f"{m}.branch3x3dbl_{k}" for k in (1, 2, 3))),
                self._conv(f"{m}.branch_pool", _average(x)),
            ],
            1,
        )

    def _block_b(self, m: str, x: Tensor) -> Tensor:
        deep = self._chain(x, f"{m}.branch3x3dbl_1", f"{m}.branch3x3dbl_2")
        return torch.cat(
            [
                self._conv(f"{m}.branch3x3", x, 2, VALID),
                self._conv(f"{m}.branch3x3dbl_3", deep, 2, VALID),
                _shrink(x),
            ],
            1,
        )

    def _block_c(self, m: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._conv(f"{m}.branch1x1", x),
                self._chain(x, *(f"{m}.branch7x7_{k}" for k in (1, 2, 3))),
                self._chain(x, *(f"{m}.branch7x7dbl_{k}" for k in (1, 2, 3, 4, 5))),
                self._conv(f"{m}.branch_pool", _average(x)),
            ],
            1,
        )

    def _block_d(self, m: str, x: Tensor) -> Tensor:
        deep = self._chain(x, *(f"{m}.branch7x7x3_{k}" for k in (1, 2, 3)))
        short = self._conv(f"{m}.branch3x3_2", self._conv(f"{m}.branch3x3_1", x), 2, VALID)
        return torch.cat([short, self._conv(f"{m}.branch7x7x3_4", deep, 2, VALID), _shrink(x)], 1)

    def _block_e(self, m: str, x: Tensor, pooled: Tensor) -> Tensor:
        short = self._conv(f"{m}.branch3x3_1", x)
        deep = self._chain(x, f"{m}.branch3x3dbl_1", f"{m}.branch3x3dbl_2")
        return torch.cat(
            [
                self._conv(f"{m}.branch1x1", x),
                self._conv(f"{m}.branch3x3_2a", short),
                self._conv(f"{m}.branch3x3_2b", short),
                self._conv(f"{m}.branch3x3dbl_3a", deep),
                self._conv(f"{m}.branch3x3dbl_3b", deep),
                self._conv(f"{m}.branch_pool", pooled),
            ],
            1,
        )


def _shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
