"""Several processes that train one generator: each takes a share of every batch, all hold the same
weights.

`torchrun` and `accelerate launch` say in the environment who is who. A loss sees its share of the
images and believes it is alone (see together.py); gradients and what buffers gather are averaged.
So the losses are those of one process, up to rounding.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import numpy as np
import torch
from torch import Tensor, distributed

from ..core.graph import Batch
from ..errors import RuntimeMissing
from .stop import SIGNALS, Handler
from .whole_batch import Together

# of torchrun, and of mpirun
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
FAILED = "edgegen/failed"  # the key under which the first process that fails says so


@dataclass(frozen=True)
class World:
    """This process among those that train together; alone, everything here does nothing."""

    rank: int = 0
    size: int = 1

    def together(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        """While the block runs, a loss of this process's share of a batch computes what it would as
        part of the whole.
        """
        return contextlib.nullcontext() if self.size == 1 else Together(self.rank, self.size, batch)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each float32 tensor becomes the mean of all processes' ones, in place, in one
        exchange.
        """
        if self.size > 1:
            flat = torch.cat([t.flatten() for t in tensors])
            distributed.all_reduce(flat)
            parts = torch.split(flat / self.size, [t.numel() for t in tensors])
            torch._foreach_copy_(
                list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
            )

    def average_changes(
        self, before: dict[torch.dtype, Tensor], after: dict[torch.dtype, Tensor]
    ) -> None:
        """after becomes before and the mean of all processes' changes, in place; whole numbers
        stay: they count the same.

        (Of changes, not of values: what nobody changes keeps its last bit.)
        """
        for dtype in [dtype for dtype in after if self.size > 1 and dtype.is_floating_point]:
            change = after[dtype] - before[dtype]
            distributed.all_reduce(change)
            after[dtype] = before[dtype] + change / self.size

    def largest(self, number: int, device: torch.device) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)

    def combined(self, values: np.ndarray, how: Literal["MIN", "MAX", "SUM"]) -> np.ndarray:
        """Of all processes' arrays of one shape, on a CPU, element by element."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values.copy())
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, how))
        return tensor.numpy()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


ALONE = World()


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """This process's place among those of its launcher; without one, ALONE.

    The first process that fails raises what it met; the others, which a closed connection or the
    launcher's signal ends, leave with SystemExit and without a word. RuntimeMissing where
    accelerate is not installed.
    """
    if all(os.environ.get(name, "1") == "1" for name in SIZES):
        yield ALONE
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise RuntimeMissing(
            "E-BACKEND",
            f"training on several processes needs accelerate: {error}",
            hint='pip install "edgegen[train]"',
        ) from error
    # a missing GPU is told by one of them, later
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    with _interruptible():
        try:
            yield World(state.process_index, state.num_processes)
        except BaseException as error:
            if not _first_to_fail(state.process_index):
                number = (
                    error.args[0] if isinstance(error, KeyboardInterrupt) and error.args else None
                )
                raise SystemExit(
                    128 + number if number else getattr(error, "exit_code", 1)
                ) from error
            raise
        finally:
            distributed.destroy_process_group()


def local_rank() -> int:
    """This process's number on its machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _first_to_fail(rank: int) -> bool:
    try:
        mine = str(rank).encode()
        first: bytes = distributed.distributed_c10d._get_default_store().compare_set(
            FAILED, "", mine.decode()
        )
        return first == mine
    except RuntimeError:  # the process that kept the store has gone, so it failed before
        return False


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Signals raise KeyboardInterrupt(number): a launcher sends its own when one process fails,
    which is no news to report.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before: dict[int, Handler] = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, stop)
            for number in SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN
        }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
