"""Loading of a file's tensors into modules and optimizers, by their names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .update import Optimizer


def fit(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into the module; path: for messages.

    InputError lists the first that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    if wrong := differences({k: v.shape for k, v in own.items()}, tensors):
        raise misfit(wrong, path)
    module.load_state_dict({k: v.to(own[k].dtype) for k, v in tensors.items()})


def differences(wanted: dict[str, torch.Size], tensors: dict[str, Tensor]) -> list[str]:
    wrong = [f"{k} is missing" for k in wanted.keys() - tensors.keys()]
    wrong += [f"{k} is unknown" for k in tensors.keys() - wanted.keys()]
    wrong += [
        f"{k} is {tuple(tensors[k].shape)}, wanted {tuple(shape)}"
        for k, shape in wanted.items()
        if k in tensors and tensors[k].shape != shape
    ]
    return sorted(wrong)


def misfit(wrong: list[str], path: Path) -> InputError:
    return InputError(
        "E-KEYS", f"{len(wrong)} tensors do not fit: {'; '.join(wrong[:5])}", path=path
    )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors named "NUMBER OF PARAMETER.NAME"."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    """Load a state from `optimizer_tensors` into the optimizer; errors as in `fit`."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(params):
            raise misfit([f"{name} is unknown"], path)
        state.setdefault(int(index), {})[key] = tensor
    for number, entry in state.items():  # a parameter no loss has moved yet has no entry at all
        blank = optimizer.blank(params[number])
        stored = {f"{number}.{key}": tensor for key, tensor in entry.items()}
        if wrong := differences(
            {f"{number}.{key}": tensor.shape for key, tensor in blank.items()}, stored
        ):
            raise misfit(wrong, path)
        if wrong := [
            f"{number}.{key} is {entry[key].dtype}, wanted {tensor.dtype}"
            for key, tensor in blank.items()
            if entry[key].dtype != tensor.dtype
        ]:
            raise misfit(wrong, path)
        # The memory layout must be the parameter's, because another one may round differently.
        for key, tensor in blank.items():
            entry[key] = tensor.copy_(entry[key])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
