"""Computing a loss on a share of a batch as part of the whole batch, so that several processes
compute what one would.

Families need no code for this, because torch's functions are intercepted while a loss runs. Random
numbers, also those of dropout, are drawn for the whole batch and shared like the photos, and batch
norms use the statistics of the whole batch. (Other statistics over images, such as a standard
deviation within a batch, are those of each process's share.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..core.graph import Batch
from ..errors import EdgegenError

Arguments = tuple[Any, ...]  # arguments of any of torch's functions, so the type is wide
Options = Mapping[str, Any]
TorchFunction = Callable[..., Tensor]


class Together(TorchFunctionMode):
    """A mode in which process `rank` of `world` draws for the whole batch and takes its own rows,
    and in which batch norms cover all processes.
    """

    def __init__(self, rank: int, world: int, batch: Batch) -> None:
        super().__init__()
        self.rank, self.world = rank, world
        self.size, self.generator = len(batch.images), batch.generator

    def __torch_function__(
        self,
        func: TorchFunction,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Options | None = None,
    ) -> Tensor:
        kwargs = kwargs or {}
        if kwargs.get("generator") is self.generator:
            return self._drawn(func, args, kwargs)
        if func in DROPOUTS:
            return self._dropped(func, *args, **kwargs)
        if func is F.batch_norm:
            return self._normed(_BatchNorm(*args, **kwargs))
        return func(*args, **kwargs)

    def _whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the whole shape of which `shape` is this process's part; the same shape for a draw
        that is not per image.

        A first axis of b, k b (k draws for each image) or b / k (for the first images only) belongs
        to a batch of b.
        """
        n, b = (shape[0] if shape else 0), self.size
        for_images = n == b or (n > 1 and (n % b == 0 or b % n == 0))
        return (n * self.world, *shape[1:]) if for_images else tuple(shape)

    def _mine(self, whole: Tensor, shape: Sequence[int]) -> Tensor:
        """Return this process's part, of that shape, with the same rows as its photos."""
        if whole.shape == torch.Size(shape):
            return whole
        rows = whole.view(max(1, shape[0] // self.size), -1, *whole.shape[1:])
        return rows[:, self.rank :: self.world].flatten(0, 1)

    def _drawn(self, func: TorchFunction, args: Arguments, kwargs: Options) -> Tensor:
        if func is torch.randperm:
            return func(*args, **kwargs)  # an order that all processes share
        if func in IN_PLACE:
            target, *bounds = args
            shape = tuple(target.shape)
            whole = func(target.new_empty(self._whole(shape)), *bounds, **kwargs)
            return target.copy_(self._mine(whole, shape))
        if func not in FACTORIES:
            raise EdgegenError(
                "E-PROCESSES",
                f"{func} draws in a way that several processes cannot share",
                hint="train with one",
            )
        limits, size = _size(func, args, kwargs)
        whole = func(*limits, **{**kwargs, "size": self._whole(size)})
        return self._mine(whole, size)

    def _dropped(
        self,
        func: TorchFunction,
        x: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if not training or not p:
            return x
        last = (
            x.ndim == 4
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=torch.channels_last)
        )
        # Random numbers are drawn in memory order, so the layout must match.
        layout = torch.channels_last if last else torch.contiguous_format
        whole = torch.empty(
            self._whole(x.shape), dtype=x.dtype, device=x.device, memory_format=layout
        ).fill_(1)
        return x * self._mine(func(whole, p, True), x.shape)

    def _normed(self, call: _BatchNorm) -> Tensor:
        """Apply batch norm with the statistics of the whole batch."""
        x = call.x
        if not call.training:
            return F.batch_norm(*call)
        axes, view = [k for k in range(x.ndim) if k != 1], [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float()
        with torch.autocast(x.device.type, enabled=False):
            mean = _sum(wide.mean(axes)) / self.world
            centred = wide - mean.view(view)
            variance = _sum(centred.square().mean(axes)) / self.world
            y = centred * (variance + call.eps).rsqrt().view(view)
            if call.weight is not None and call.bias is not None:
                y = y * call.weight.view(view) + call.bias.view(view)
        if call.running_mean is not None and call.running_var is not None:
            count = x.numel() // x.shape[1] * self.world
            with torch.no_grad():
                call.running_mean.lerp_(mean.detach().to(call.running_mean.dtype), call.momentum)
                unbiased = variance.detach().to(call.running_var.dtype) * (count / (count - 1))
                call.running_var.lerp_(unbiased, call.momentum)
        return y.to(x.dtype)


class _BatchNorm(NamedTuple):
    """The arguments of torch.nn.functional.batch_norm."""

    x: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


def _size(
    func: TorchFunction, args: Arguments, kwargs: Options
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the bounds of randint, and the requested shape, however it was passed."""
    if "size" in kwargs:
        return args, tuple(kwargs["size"])
    if func is torch.randint:
        return args[:-1], tuple(args[-1])
    return (), tuple(args[0] if args and isinstance(args[0], Sequence) else args)


FACTORIES = frozenset({torch.rand, torch.randn, torch.randint})
IN_PLACE = frozenset(
    {Tensor.normal_, Tensor.uniform_, Tensor.random_, Tensor.exponential_, Tensor.bernoulli_}
)
DROPOUTS = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.dropout3d})


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is also such a sum, so that it can be differentiated
    any number of times.
    """

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, slope: Tensor) -> Tensor:
        return _sum(slope)


def _sum(x: Tensor) -> Tensor:
    return _Sum.apply(x)  # type: ignore[no-untyped-call]
