"""The records of a run: a line of losses per step, grids of images from fixed seeds, and
TensorBoard.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.disk import disk_error
from ..core.files import write_bytes
from ..core.graph import executed
from ..core.images import grid, save_png, to_uint8
from ..core.reader import read_bytes
from ..core.runtime import Pipeline
from ..errors import RuntimeMissing
from .loop import Trainer

# images of a grid, from seeds 0, 1, ...; with ten classes each row shows all of them
SAMPLES, COLUMNS = 40, 10
LARGEST = 1 << 30  # most bytes of metrics.jsonl
WIDE = 64  # least width in pixels of an image in a grid


class Record:
    """A context manager for a run's records beside its checkpoints; resumed runs continue them."""

    def __init__(
        self, out: Path, trainer: Trainer, samples_every: int = 0, tensorboard: bool = False
    ) -> None:
        self._out, self._trainer, self._every = out, trainer, samples_every
        rewind(out / "metrics.jsonl", trainer.step)
        self._log = open(out / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._board = (
            summary_writer()(str(out / "tensorboard"), purge_step=trainer.step + 1)
            if tensorboard
            else None
        )

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()

    def step(self, report: Mapping[str, float]) -> None:
        """Record the losses of a step and, at intervals and at the end, a grid of images."""
        run = self._trainer
        finite = {name: loss if math.isfinite(loss) else None for name, loss in report.items()}
        self._log.write(json.dumps({"step": run.step, "images": run.images, **finite}) + "\n")
        if self._board is not None:
            for name, loss in finite.items():
                if loss is not None:
                    self._board.add_scalar(f"loss/{name}", loss, run.step)
        if self._every and (run.step % self._every == 0 or run.step == run.steps):
            self._samples()

    def sync(self) -> None:
        """Write all lines to disk, before a checkpoint, so that a resumed run finds them."""
        self._log.flush()
        os.fsync(self._log.fileno())

    def _samples(self) -> None:
        pixels = grid(to_uint8(pipeline(self._trainer)(range(SAMPLES))), COLUMNS)
        folder = self._out / "samples"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        save_png(
            folder / f"step-{self._trainer.step:08d}.png",
            pixels,
            -(-WIDE // self._trainer.generator.image_shape[2]),
        )
        if self._board is not None:
            self._board.add_image("samples", pixels, self._trainer.step, dataformats="HWC")


@contextmanager
def averages_in(trainer: Trainer) -> Iterator[None]:
    """Put the averaged weights into the networks during the block, and the run's own back after."""
    networks = trainer.generator.networks
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    networks.load_state_dict(trainer.averages.state_dict())
    try:
        yield
    finally:
        networks.load_state_dict(before)


def pipeline(trainer: Trainer) -> Pipeline:
    """Return a pipeline of the averaged weights, which would ship now, on the run's device."""
    generator = trainer.generator
    with averages_in(trainer):
        graphs = generator.graphs()
    return Pipeline(generator.latent, generator.sampler, executed(graphs, trainer.device))


def rewind(path: Path, step: int) -> None:
    """Remove the lines after `step` from a file of losses, and a last line that a kill cut off."""
    if not path.exists():
        return
    lines_before = []
    for line in read_bytes(path, LARGEST).splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                lines_before.append(line)
        except (ValueError, TypeError, KeyError):
            continue
    write_bytes(path, b"".join(lines_before))


def summary_writer() -> Any:
    """Return TensorBoard's SummaryWriter. RuntimeMissing if its package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RuntimeMissing(
            "E-BACKEND",
            f"--tensorboard needs a package that is not here: {error}",
            hint='pip install "edgegen[tensorboard]"',
        ) from error
    return SummaryWriter
