"""Training of one generator in several processes, which hold the same weights and take a share of
every batch each.

`torchrun` and `accelerate launch` give each process its rank in the environment. A loss is computed
on the process's share as part of the whole batch (see whole_batch.py); gradients and changes of
buffers are averaged. So the losses equal those of one process, up to rounding.
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

# variables of torchrun and of mpirun with the number of processes
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
FAILED = "edgegen/failed"  # key under which the first process that fails stores its rank


@dataclass(frozen=True)
class World:
    """This process's rank among those that train together; a single one exchanges nothing."""

    rank: int = 0
    size: int = 1

    def together(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        """Return a context in which a loss of this process's share of a batch is computed as it
        would be as part of the whole batch.
        """
        return contextlib.nullcontext() if self.size == 1 else Together(self.rank, self.size, batch)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float32 tensor in place by its mean over all processes, in one exchange."""
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
        """Set `after`, in place, to `before` plus the mean change over all processes.

        Integers stay, because they are equal in all processes. Changes are averaged instead of
        values, so that unchanged values keep their last bit.
        """
        for dtype in [dtype for dtype in after if self.size > 1 and dtype.is_floating_point]:
            change = after[dtype] - before[dtype]
            distributed.all_reduce(change)
            after[dtype] = before[dtype] + change / self.size

    def largest(self, number: int, device: torch.device) -> int:
        """Return the largest number of all processes."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return int(value)

    def combined(self, values: np.ndarray, how: Literal["MIN", "MAX", "SUM"]) -> np.ndarray:
        """Combine the arrays (equal shapes, on a CPU) of all processes element by element."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values.copy())
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, how))
        return tensor.numpy()

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.size > 1:
            distributed.barrier()


ALONE = World()


@contextlib.contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes of the launcher, and yield this process's World; ALONE without a launcher.

    The first process that fails raises its error. The others, which end by a closed connection or
    the launcher's signal, exit silently with SystemExit. RuntimeMissing if accelerate is not
    installed.
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
    # One of the processes reports a missing GPU later.
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
    """Return this process's number on its machine, which is also the number of its GPU."""
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
    """Make signals raise KeyboardInterrupt(number) during the block.

    A launcher sends a signal to all others when one process fails, which need not be reported.
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
