"""Several processes that train one generator: each takes a share of every batch, all hold the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.graph import Batch


@dataclass(frozen=True)
class World:
    """This process among those that train together; alone, everything here does nothing."""

    rank: int = 0
    size: int = 1

    @contextmanager
    def together(self, batch: Batch) -> Iterator[None]:
        yield

    def average(self, tensors: list[Tensor]) -> None:
        """Each tensor becomes the mean of all processes' ones, in place."""

    def average_changes(self, before: dict[torch.dtype, Tensor], after: dict[torch.dtype, Tensor]) -> None:
        """after becomes before and the mean of all processes' changes, in place; whole numbers stay: they count the same."""


ALONE = World()
