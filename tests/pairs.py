"""Jobs for two processes, started by fork: `python pairs.py FOLDER JOB...` writes
FOLDER/JOB.RANK.{out,err,code}.

A fresh interpreter, since torch cannot fork once it has computed gradients.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from runs import go
from staged import staged

from edgegen.cli import main
from edgegen.core.graph import Batch
from edgegen.errors import InputError
from edgegen.families.cas_dm import CasDm
from edgegen.training.loop import Trainer
from edgegen.training.processes import joined
from edgegen.workflows.export import fp32

STEPS = 12
DATA = str(Path(__file__).parent / "data" / "photos")


def train(folder: Path, name: str, resume: bool = False, kill: int = 0) -> None:
    """A run of cas-dm; kill: the step after which both processes are killed."""

    def progress(trainer: Trainer, _: dict[str, float]) -> None:
        if trainer.step == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    with joined("cpu") as world:
        go(
            folder / name,
            resume=resume,
            every=5,
            progress=progress,
            steps=STEPS,
            precision="fp32",
            world=world,
        )


def stages(folder: Path) -> None:
    """The toy of two stages: its losses, and what both processes then hold."""
    with joined("cpu") as world:
        made, run = staged(steps=STEPS, world=world)
        losses = list(run.run())
        state = {k: v.tolist() for k, v in run.averages.state_dict().items()}
        Path(folder / f"stages.{world.rank}.json").write_text(
            json.dumps({"losses": losses, "state": state, "begun": made.begun})
        )


def verb(out: Path) -> int:
    return main.run(
        [
            "train",
            "cas-dm",
            str(out),
            "--data",
            DATA,
            "--recipe",
            "tiny",
            "--images",
            "160",
            "--threads",
            "1",
        ]
    )


def interrupted(folder: Path, happens: Callable[[], None]) -> int:
    """A run to the second process of which, alone, something happens in its third step."""
    real, calls = CasDm.phi_loss, 0

    def phi_loss(self: CasDm, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 and os.environ["RANK"] == "1":
            happens()
        return real(self, batch)

    CasDm.phi_loss = phi_loss  # type: ignore[method-assign]
    return verb(folder)


def fail() -> None:
    raise InputError("E-TEST", "only one process met this")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the terminal's and the launcher's


def calibrated(folder: Path, name: str, *flags: str) -> int:
    """What the test has exported already."""
    fp32.fp32_models = lambda *_: {g: onnx.load(folder / f"{g}.onnx") for g in ("theta", "phi")}
    return main.run(
        ["calibrate", str(folder / "run"), "--threads", "1", "-o", str(folder / name), *flags]
    )


JOBS: dict[str, Callable[[Path], int | None]] = {
    "whole": lambda folder: train(folder, "whole"),
    "killed": lambda folder: train(folder, "killed", kill=8),
    "resumed": lambda folder: train(folder, "killed", resume=True),
    "stages": stages,
    "failing": lambda folder: interrupted(folder / "failing", fail),
    "calibrate": lambda folder: calibrated(folder, "calibrate", "--samples", "40"),
    "calibrate-files": lambda folder: calibrated(
        folder, "calibrate-files", "--data", str(folder / "feeds")
    ),
    "stopped": lambda folder: interrupted(folder / "stopped", stop),
}


def start(folder: Path, name: str, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{rank}.{kind}", os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    code = 70
    try:
        code = JOBS[name](folder) or 0
    finally:
        sys.stdout.flush()
        (folder / f"{name}.{rank}.code").write_text(str(code))
        os._exit(code)
    raise AssertionError


def pairs(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for pid in [start(folder, name, rank, port) for rank in (0, 1)]:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    pairs(Path(sys.argv[1]), sys.argv[2:])
