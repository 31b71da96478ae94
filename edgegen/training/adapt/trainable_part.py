"""The part of a network that an adapter trains, as a network of its own, which the training loop
averages and checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

# parts of PEFT's names of a frozen layer that has a pair, or a trained copy
OF_BASE = (".base_layer.", ".original_module.")


class Part(nn.Module):
    """The parameters of `whole` that require a gradient, and its buffers, under their own names;
    the tensors are shared with `whole`.

    Modes and moves are passed on to `whole`. A deep copy holds only copies of these tensors, so an
    average of it is as small as an adapter.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        # in a list, so that it is not a sub-module: its frozen tensors are not in the part
        self._whole: list[nn.Module] = [whole]
        self._link()

    def _link(self) -> None:
        for whole in self._whole:
            for name, parameter in whole.named_parameters():
                if parameter.requires_grad:
                    place, leaf = self._place(name)
                    place.register_parameter(leaf, parameter)
            state = whole.state_dict(keep_vars=True)
            for name, buffer in whole.named_buffers():
                if name in state and not any(mark in f".{name}" for mark in OF_BASE):
                    place, leaf = self._place(name)
                    place.register_buffer(leaf, buffer)

    def _place(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        here: nn.Module = self
        for step in path:
            if step not in here._modules:
                here.add_module(step, nn.Module())
            here = here._modules[step]  # type: ignore[assignment]
        return here, leaf

    def train(self, mode: bool = True) -> Part:
        for whole in self._whole:
            whole.train(mode)
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Part:
        if not self._whole:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for whole in self._whole:
            whole._apply(fn)  # type: ignore[no-untyped-call]  # a move may give tensors new places
        self._link()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Part:
        part = Part.__new__(Part)
        nn.Module.__init__(part)
        part._whole = []
        for name, parameter in self.named_parameters():
            place, leaf = part._place(name)
            place.register_parameter(leaf, nn.Parameter(parameter.detach().clone()))
        for name, buffer in self.named_buffers():
            place, leaf = part._place(name)
            place.register_buffer(leaf, buffer.detach().clone())
        part.training = self.training
        return part
